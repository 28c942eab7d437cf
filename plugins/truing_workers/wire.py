"""What goes over the wire between a run and a process of its own: frames of msgpack, each with its length before it.

    run  -> process    Start, then Take and Ask in turn; Cancel and Reference at any time
    run <-  process    Done or Failed for each number; Wants and Said at any time

A batch travels column by column, tensors as their bytes; a component as the names of its classes and its options.
Nothing is pickled.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping
from typing import Any, cast, get_type_hints

import msgspec

from truing.errors import Problem, RunFailed, TruingError, UserError
from truing.run import Stopped
from truing.stage import AnySpec, Spec, component_of
from truing_remote.frames import Frames
from truing_tensor.columns import (
    Column,
    batch_of as batch_of,
    columns_of as columns_of,
    name_of as name_of,
    place_of as place_of,
)


class Line(msgspec.Struct, array_like=True):
    """A tensor in a copy of the weights. at: bytes from the beginning of the copy."""

    name: str
    dtype: str
    shape: list[int]
    at: int


class Sheet(msgspec.Struct):
    """What a copy of weights holds. size: bytes of all of it. digest: of these bytes."""

    lines: list[Line]
    size: int
    digest: str


class Start(msgspec.Struct, tag=True):
    """Which component to build, for which run, and on what."""

    number: int
    spec: dict[str, Any]
    name: str
    folder: str
    seed: int
    phase: str
    wanted: list[tuple[str, str, str, str]]
    resumed: bool
    threads: int
    cores: list[int]


class Take(msgspec.Struct, tag=True):
    """Sample from these weights from now on. copy: which of the copies they are in. first: the run waits until they
    are taken, and hears what else is wanted."""

    number: int
    version: int
    origin: str
    copy: int
    sheet: Sheet
    reference: Reference | None
    first: bool


class Reference(msgspec.Struct, tag=True):
    """Where the weights of the reference are: in a memory of their own."""

    number: int
    version: int
    origin: str
    sheet: Sheet


class Ask(msgspec.Struct, tag=True):
    """Complete these prompts."""

    number: int
    batch: list[Column]


class Cancel(msgspec.Struct, tag=True):
    """Nobody waits any more for the answer of this number."""

    number: int


class Done(msgspec.Struct, tag=True):
    """It is done; what came of it."""

    number: int
    batch: list[Column] = []


class Failed(msgspec.Struct, tag=True):
    """It was not done. kind: of the error. problems: where, what and mend of each."""

    number: int
    kind: str
    text: str = ""
    problems: list[tuple[str, str, str]] = []


class Wants(msgspec.Struct, tag=True):
    """Whoever takes the weights of this number asks for the reference, too."""

    number: int


class Said(msgspec.Struct, tag=True):
    """An event, as a line of the journal."""

    event: bytes


Order = Start | Take | Reference | Ask | Cancel
Answer = Done | Failed | Wants | Said


class Link:
    """One end of the wire. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._frames = Frames(end)
        self.leave, self.close = self._frames.leave, self._frames.close

    def send(self, message: Order | Answer) -> None:
        """Raises OSError when nobody is at the other end."""
        self._frames.send(msgspec.msgpack.encode(message))

    def receive(self) -> Order | Answer | None:
        """The next message; None when nobody is at the other end any more."""
        content = self._frames.receive()
        return msgspec.msgpack.decode(content, type=Order | Answer) if content else None


# --- components -------------------------------------------------------------------------------------------------------


def packed(spec: AnySpec) -> dict[str, Any]:
    """A component as it travels: under "" its class, which no option is called, and its options."""
    kind = type(spec)
    options = {option.name: _packed(getattr(spec, option.name)) for option in msgspec.structs.fields(kind)}
    return {"": f"{kind.__module__}:{kind.__qualname__}", **options}


def unpacked(table: Mapping[str, Any]) -> AnySpec:
    """The component that travelled."""
    module, _, name = table[""].partition(":")
    kind = getattr(importlib.import_module(module), name)
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: _unpacked(hints[key], value) for key, value in table.items() if key})


def _packed(value: Any) -> Any:
    if isinstance(value, Spec):
        return packed(cast(AnySpec, value))
    if isinstance(value, list):
        return [_packed(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _packed(each) for key, each in cast("dict[str, Any]", value).items()}
    return msgspec.to_builtins(value)


def _unpacked(hint: Any, value: Any) -> Any:
    if component_of(hint) is None or value is None:
        return msgspec.convert(value, hint)
    if isinstance(value, list):
        return [unpacked(each) for each in cast("list[Any]", value)]
    return unpacked(value) if "" in value else {key: unpacked(each) for key, each in value.items()}


# --- errors -----------------------------------------------------------------------------------------------------------


def failed(number: int, error: BaseException) -> Failed:
    """An error as it travels."""
    if isinstance(error, UserError):
        return Failed(number, "user", problems=[(each.where, each.what, each.mend) for each in error.problems])
    if isinstance(error, Stopped):
        return Failed(number, "stopped")
    return Failed(number, "run", str(error) if isinstance(error, TruingError) else f"{type(error).__name__}: {error}")


def error_of(failed: Failed) -> Exception:
    """The error that travelled."""
    if failed.kind == "user":
        return UserError(Problem(*each) for each in failed.problems)
    return Stopped() if failed.kind == "stopped" else RunFailed(failed.text)

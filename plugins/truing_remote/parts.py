"""A component as it travels to another process, the names of its classes and its options, with the run that it works
for; and what went wrong there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast, get_type_hints

import msgspec

from truing.bus import Bus
from truing.errors import Problem, RunFailed, TruingError, UserError
from truing.fields import Field
from truing.run import Run, Stop, Stopped
from truing.stage import AnySpec, Spec, component_of


class Part(msgspec.Struct):
    """Which component to build, for which run, and how many threads its arithmetic takes. wanted: fields, as they are
    made."""

    spec: dict[str, Any]
    name: str
    folder: str
    seed: int
    phase: str
    wanted: list[list[str]]
    resumed: bool
    threads: int

    def run(self, bus: Bus, stop: Stop) -> Run:
        """The run as it is there."""
        wanted = frozenset(Field[Any](*place) for place in self.wanted)
        folder = Path(self.folder)
        return Run(self.name, folder, self.seed, bus, self.phase, wanted=wanted, resumed=self.resumed, stop=stop)


def part_of(spec: AnySpec, run: Run, threads: int) -> Part:
    """A component that is to work for a run elsewhere."""
    folder, wanted = os.path.abspath(run.folder), [list(astuple(field)) for field in run.wanted]
    return Part(packed(spec), run.name, folder, run.seed, run.phase, wanted, run.resumed, threads)


class Failed(msgspec.Struct, tag=True):
    """It was not done. kind: of the error. problems: where, what and mend of each."""

    number: int
    kind: str
    text: str = ""
    problems: list[tuple[str, str, str]] = []


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

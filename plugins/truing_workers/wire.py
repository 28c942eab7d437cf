"""What goes over the wire between a run and a process of its own: frames of msgpack, each with its length before it.

    run  -> process    Start, then Take and Ask in turn; Cancel and Reference at any time
    run <-  process    Done or Failed for each number; Wants and Said at any time

A batch travels as `truing_tensor.columns`, a component and an error as `truing_remote.parts`. Nothing is pickled.
"""

from __future__ import annotations

import socket

import msgspec

from truing_remote.frames import Frames
from truing_remote.parts import Failed, Part
from truing_tensor.columns import Column


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
    """What to build, and on which cores."""

    number: int
    part: Part
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

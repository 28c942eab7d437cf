"""The actor itself: builds a component, and does what it is told, in the order in which it was told.

What it is handed and what it answers are bytes: msgpack, and safetensors for weights. Ray pickles nothing of ours but
these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
import safetensors.torch
import torch
from torch import Tensor

import ray
from truing.bus import Bus
from truing.errors import RunFailed, first_cause
from truing.events import Event, encode
from truing.run import Stop, Stopped
from truing_remote.parts import Failed, Part, failed, unpacked
from truing_tensor.columns import Column, batch_of, columns_of


class Answer(msgspec.Struct):
    """A batch, or what went wrong. said: events, as lines of the journal. wants: the reference is asked for, too."""

    batch: list[Column] = []
    failed: Failed | None = None
    said: list[bytes] = []
    wants: bool = False


class LetGo(Stop):
    """True while what is done is of no use to anybody."""

    def __bool__(self) -> bool:
        return self.now

    now = False


class WantsReference(Exception):
    """The component asks for the reference, and it is not here."""


@dataclass(frozen=True)
class Sent:
    """Weights out of the object store."""

    version: int
    origin: str
    content: Any
    held_to: Sent | None = None

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor as it was sent."""
        return safetensors.torch.load(self.content.tobytes()).items()

    def reference(self) -> Sent:
        """That which was sent with them. Raises WantsReference."""
        if self.held_to is None:
            raise WantsReference
        return self.held_to


class Actor:
    """Does one thing at a time. Each call has a number, and they are done in their order."""

    def __init__(self) -> None:
        self._said: list[bytes] = []
        self._broken: Failed | None = None
        self._stop = LetGo()
        self._over: set[int] = set()
        self._of_no_use: set[int] = set()
        self._next = 0
        self._changed = anyio.Event()

    async def begin(self, number: int, order: bytes) -> bytes:
        """Build the component."""
        part = msgspec.msgpack.decode(order, type=Part)
        torch.set_num_threads(part.threads)
        self._run = part.run(Bus(keep=self._hear), self._stop)

        async def build() -> Answer:
            self._component: Any = await self._run.on_device(unpacked(part.spec).build, self._run)
            return Answer()

        return await self._in_turn(number, build)

    async def work(self, number: int, method: str, batch: bytes) -> bytes:
        """What the component's `generate` or `score` makes of a batch."""

        async def work() -> Answer:
            if self._broken:
                return Answer(failed=self._broken)
            asked = batch_of(msgspec.msgpack.decode(batch, type=list[Column]))
            made = await getattr(self._component, method)(asked)
            return Answer(columns_of(made, frozenset(made)))

        return await self._in_turn(number, work)

    async def take(self, number: int, version: int, origin: str, weights: list[Any], reference: list[Any]) -> bytes:
        """Have the component sample from weights. What comes of that going wrong is told to who asks next, too."""

        async def take() -> Answer:
            held_to = Sent(0, origin, await reference[0]) if reference else None
            try:
                await self._component.sync_weights(Sent(version, origin, await weights[0], held_to))
            except WantsReference:
                return Answer(wants=True)
            self._broken = None
            return Answer()

        answer = await self._in_turn(number, take)
        self._broken = msgspec.msgpack.decode(answer, type=Answer).failed
        return answer

    async def let_go(self, number: int) -> None:
        """Nobody waits any more for a call."""
        self._of_no_use.add(number)
        self._stop.now = self._next in self._of_no_use

    async def _in_turn(self, number: int, work: Callable[[], Awaitable[Answer]]) -> bytes:
        """What comes of a call, once those before it are over."""
        while number != self._next:
            await self._changed.wait()
        self._stop.now = number in self._of_no_use
        try:
            answer = await self._run.or_stopped(work)
            if answer is None:
                raise Stopped
        except Exception as error:
            cause = first_cause(error)
            assert isinstance(cause, Exception)
            answer = Answer(failed=failed(number, cause))
        self._stop.now, self._next = False, number + 1
        self._changed.set()
        self._changed = anyio.Event()
        answer.said, self._said = self._said, []
        return msgspec.msgpack.encode(answer)

    def _hear(self, event: Event) -> None:
        self._said.append(encode(event))


def handle(cpus: float, gpus: float, resources: dict[str, float]) -> Any:
    """An actor that is placed where there is room for it. Nobody but us starts it again: it would have no weights."""
    options = {"num_cpus": cpus, "num_gpus": gpus, "resources": resources, "max_restarts": 0, "max_concurrency": 1000}
    return ray.remote(Actor).options(**options).remote()


def bytes_of(tensors: Iterable[tuple[str, Tensor]]) -> Any:
    """Weights as safetensors, in an array that the object store shares without a copy. Raises RunFailed."""
    import numpy

    content = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors})
    if not content:
        raise RunFailed("the model has no weights")
    return numpy.frombuffer(content, dtype=numpy.uint8)

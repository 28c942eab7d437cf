"""Run: what a component is handed when it is built."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.lowlevel
import anyio.to_thread

from truing.bus import LOOP, Bus
from truing.errors import first_cause
from truing.fields import Fields
from truing.script import Script

T = TypeVar("T")


class Stop:
    """A request to stop, seen from every thread. Work in a thread looks at it wherever it can let go cleanly."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Ask the run to stop; the first reason is kept."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()


class Stopped(Exception):
    """Raised inside a stage that saw the request to stop and let its half-done work go."""


async def gathered(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What several pieces of work come to that are done side by side, in their order. Raises what one of them raised,
    the others cancelled."""
    done: dict[int, T] = {}

    async def do(at: int) -> None:
        done[at] = await works[at]()

    try:
        async with anyio.create_task_group() as tasks:
            for at in range(len(works)):
                tasks.start_soon(do, at)
    except BaseExceptionGroup as group:
        raise first_cause(group) from None
    return [done[at] for at in range(len(works))]


class DeviceThread:
    """The one thread in which all mathematics of a run is done, one piece after another.

    One and the same, because every thread that multiplies brings helper threads of its own, and they stop waiting for
    work as soon as all of them together are more than the cores: on a CPU each small operation then has to wake them.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "device")

    async def run(self, work: Callable[..., T], *args: object, leave: bool = False) -> T:
        """Wait for work that is done there. leave: when cancelled, leave it behind instead of waiting for its end."""
        context = copy_context()
        context.run(LOOP.set, anyio.lowlevel.current_token())
        waiting = self._pool.submit(context.run, work, *args)
        return await anyio.to_thread.run_sync(waiting.result, abandon_on_cancel=leave)

    async def beside(self, work: Callable[..., T], *args: object) -> T:
        """Wait for work that is done beside it, in a thread of its own: encoding, for example."""
        return await anyio.to_thread.run_sync(work, *args)


@dataclass(frozen=True)
class Run:
    """One run of one recipe, as a component sees it.

    folder: everything the run keeps. phase: the phase being built, "" outside of one. wanted: the fields some stage
    of the phase needs, so that a model knows, for example, whether to hold a reference. opened: before a resume, the
    digests of sources, by phase and role. script: of the run that is replayed, if this is a replay. stop: asks every
    stage to let go. ends: called when the phase is over, the last first, in a thread that may wait: a component that
    holds more than memory adds how it is given back.
    """

    name: str
    folder: Path
    seed: int
    bus: Bus
    phase: str = ""
    wanted: Fields = frozenset()
    resumed: bool = False
    opened: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    script: Script | None = None
    stop: Stop = field(default_factory=Stop)
    ends: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    device: DeviceThread = field(default_factory=lambda: DeviceThread())

    def at(self, phase: str, wanted: Fields) -> Run:
        """This run, seen from inside a phase."""
        return replace(self, phase=phase, wanted=wanted, ends=[])

    @property
    def phase_folder(self) -> Path:
        """Where the current phase keeps its model and checkpoints."""
        return self.folder / self.phase

    def resolve(self, path: str, made: str = "model") -> str:
        """`@phase` becomes the folder of the model, or of the `data`, that phase made; another path stays as it is."""
        return str(self.folder / path[1:] / made) if path.startswith("@") else path

    def seed_for(self, *what: object) -> int:
        """A seed that depends on the run's seed and on `what` alone, never on a worker or the time of day."""
        text = "\x1f".join(map(str, (self.seed, *what)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")

    async def or_stopped(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Wait for something, or for a request to stop, which cancels it and gives None."""
        done: list[T] = []

        async def wait() -> None:
            done.append(await work())
            tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                while not self.stop:
                    await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        return done[0] if done else None

    async def unless_stopped(self, work: Callable[..., T], *args: object) -> T | None:
        """Slow building beside the event loop, left behind as soon as the run is asked to stop."""
        return await self.or_stopped(partial(self.device.run, work, *args, leave=True))

    async def on_device(self, work: Callable[..., T], *args: object) -> T:
        """Run mathematics beside the event loop, one piece at a time, all of it in the same thread."""
        return await self.device.run(work, *args)

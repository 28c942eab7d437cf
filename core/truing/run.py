"""Run: what a component is handed when it is built."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from truing.bus import Bus
from truing.errors import first_cause
from truing.fields import Fields

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


@dataclass(frozen=True)
class Run:
    """One run of one recipe, as a component sees it.

    folder: everything the run keeps. phase: the phase being built, "" outside of one. wanted: the fields some stage
    of the phase needs, so that a model knows, for example, whether to hold a reference. stop: asks every stage to let
    go.
    """

    name: str
    folder: Path
    seed: int
    bus: Bus
    phase: str = ""
    wanted: Fields = frozenset()
    resumed: bool = False
    stop: Stop = field(default_factory=Stop)
    device: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    def at(self, phase: str, wanted: Fields) -> Run:
        """This run, seen from inside a phase."""
        return replace(self, phase=phase, wanted=wanted)

    @property
    def phase_folder(self) -> Path:
        """Where the current phase keeps its model and checkpoints."""
        return self.folder / self.phase

    def resolve(self, path: str) -> str:
        """`@phase` becomes the folder of the model that phase made; any other path stays as it is."""
        return str(self.folder / path[1:] / "model") if path.startswith("@") else path

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
        """Run slow building in a thread that is left behind as soon as the run is asked to stop."""
        return await self.or_stopped(partial(anyio.to_thread.run_sync, work, *args, abandon_on_cancel=True))

    async def on_device(self, work: Callable[..., T], *args: object) -> T:
        """Run mathematics in a thread, one piece at a time per device, while the event loop stays free."""
        return await anyio.to_thread.run_sync(work, *args, limiter=self.device)

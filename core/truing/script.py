"""What a run that is replayed did: which stage was asked for which groups of each wave, and under which weights.

An online run whose sampling and learning overlap depends on the clock in one thing alone: from which version of the
weights a wave was sampled. The journal has it, so a replay can wait for the same version, and keep the next from being
published before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import anyio

from truing.events import Event, GroupFailed, StageEnded, WaveAdmitted

SAMPLING = "generate"


class Call(NamedTuple):
    """One answer of a stage. ids: the groups it was for, none for all of the wave. version: of the weights."""

    ids: Sequence[str]
    version: int


class Script:
    """The calls of a run, by phase, wave and stage."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._calls: dict[tuple[str, int], dict[str, list[Call]]] = {}
        self._failed: dict[tuple[str, int], dict[str, str]] = {}
        for event in events:
            match event:
                case WaveAdmitted():
                    self._calls[event.phase, event.wave] = defaultdict(list)
                    self._failed[event.phase, event.wave] = {}
                case StageEnded() if (event.phase, event.wave) in self._calls:
                    self._calls[event.phase, event.wave][event.stage].append(Call(event.ids, event.version))
                case GroupFailed() if (event.phase, event.wave) in self._failed:
                    self._failed[event.phase, event.wave][event.id] = event.error
                case _:
                    pass

    def calls(self, phase: str, wave: int, stage: str) -> Sequence[Call]:
        """How a stage was asked for a wave with success, in order."""
        return self._calls.get((phase, wave), {}).get(stage, [])

    def error(self, phase: str, wave: int, name: str) -> str:
        """Why a group of a wave failed, "" if it did not."""
        return self._failed.get((phase, wave), {}).get(name, "")

    def failed(self, phase: str, wave: int) -> bool:
        """Whether any group of a wave failed."""
        return bool(self._failed.get((phase, wave)))

    def versions(self, phase: str) -> Counter[int]:
        """How many samplings of a phase were done under each version of the weights."""
        calls = [
            call for (name, _), stages in self._calls.items() if name == phase for call in stages.get(SAMPLING, [])
        ]
        return Counter(call.version for call in calls)


class Turns:
    """Lets samplings and new weights alternate as they did in the run that is replayed; without one, as they come."""

    def __init__(self, to_come: Counter[int] | None = None) -> None:
        self._to_come = to_come or Counter()
        self._changed = anyio.Condition()
        self._version = -1

    async def under(self, version: int) -> None:
        """Wait until the weights of this version are out; what has none, -1, waits for nothing."""
        async with self._changed:
            while version >= 0 and self._version != version:
                await self._changed.wait()

    async def sampled(self, version: int) -> None:
        """One sampling under this version is done."""
        async with self._changed:
            self._to_come[version] -= 1
            self._changed.notify_all()

    async def done_with(self) -> None:
        """Wait until all that is to be sampled from the weights that are out has been."""
        async with self._changed:
            while self._version >= 0 and self._to_come[self._version] > 0:
                await self._changed.wait()

    async def out(self, version: int) -> None:
        """The weights of this version are out."""
        async with self._changed:
            self._version = version
            self._changed.notify_all()

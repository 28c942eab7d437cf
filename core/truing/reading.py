"""Reading ahead: batches that are read and encoded, each for a ticket, before they are learned from.

There is one more ticket than batches may be ready ahead, and no more than there are steps left, so nothing is made
ready that is not learned from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import anyio

from truing.errors import RunFailed
from truing.events import DataOpened, GroupDropped
from truing.fields import IDS, Batch
from truing.journal import Position
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.sampling import Stages, Wave
from truing.stage import DataInfo, Source


@dataclass(frozen=True)
class Read:
    """A batch as it was read and encoded, and where the data stands after it: groups read in this epoch."""

    wave: Wave
    size: int
    epoch: int
    read: int
    dropped: int
    truncated: int


class Reading:
    """The batches of a phase from where the data stood.

    tickets: how many may be under way. text: what is encoded of a batch. admit: called with the number and the ids of
    each batch that is read.
    """

    def __init__(
        self,
        stages: Stages,
        loop: Loop,
        run: Run,
        start: Position,
        tickets: int,
        text: Callable[[Batch], Batch],
        admit: Callable[[int, Sequence[str]], None],
    ) -> None:
        self._stages, self._loop, self._run, self._start = stages, loop, run, start
        self._text, self._admit = text, admit
        self.tickets = tickets
        self._free = anyio.Semaphore(tickets)

    async def batches(self) -> AsyncIterator[Read]:
        """Read and encode, a ticket for each batch."""
        epoch, skip, wave, groups = self._start.epoch, self._start.read, self._start.waves, self._start.groups
        while self._loop.steps or epoch < (self._loop.epochs or 1):
            read = 0
            async for raw in self._stages.source.batches(self._loop.batch, epoch):
                size = len(raw[IDS])
                read += size
                if read <= skip:
                    continue
                await self._free.acquire()
                wave += 1
                self._admit(wave, raw[IDS])
                encoded = await anyio.to_thread.run_sync(self._stages.model.encode, self._text(raw))
                for group, reason in encoded.dropped:
                    self._run.bus.publish(GroupDropped(phase=self._run.phase, id=group, reason=reason, wave=wave))
                taken = Wave(wave, groups, encoded.batch)
                yield Read(taken, size, epoch, read, len(encoded.dropped), encoded.truncated)
                groups += size
            epoch, skip = epoch + 1, 0

    def give_back(self, left: int) -> None:
        """Give a ticket back, unless there are as many as steps left."""
        if left >= self.tickets:
            self._free.release()
        else:
            self.tickets -= 1


async def open_source(source: Source, role: str, run: Run) -> DataInfo:
    """Open a source and say what it has. Raises RunFailed when that is nothing, and Stopped."""
    info = await run.or_stopped(source.open)
    if info is None:
        raise Stopped
    run.bus.publish(DataOpened(phase=run.phase, role=role, **info._asdict()))
    if info.groups == 0:
        raise RunFailed(f"the {role} {info.origin} has no groups to learn from")
    return info

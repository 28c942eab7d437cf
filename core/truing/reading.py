"""Reading ahead: batches that are read and encoded, each for a ticket, before they are learned from.

There is one more ticket than batches may be ready ahead, and no more than there are steps left, so nothing is made
ready that is not learned from.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import anyio

from truing.attempts import unsound
from truing.errors import Problem, RunFailed, UserError
from truing.events import DataOpened, GroupDropped
from truing.fields import IDS, Batch
from truing.groups import joined
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
    truncated: int
    alike: int


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
        self._stages, self._loop, self._run = stages, loop, run
        self._text, self._admit = text, admit
        self.tickets = tickets
        self._free = anyio.Semaphore(tickets)
        self._wave, self._groups = start.waves, start.groups
        # What is missing of a batch is any number of groups, so they are read one by one where it is filled up.
        self._piece = 1 if loop.refill else loop.batch
        self._begin(start.epoch, start.read)

    async def batches(self) -> AsyncIterator[Read]:
        """Read and encode, a ticket for each batch."""
        while groups := await self._next(self._loop.batch):
            await self._free.acquire()
            yield await self._encoded(groups)

    async def more(self, most: int) -> Read | None:
        """A further batch for a ticket that is held, of so many groups or those that the epoch still has; None behind
        the last."""
        groups = await self._next(most)
        return await self._encoded(groups) if groups else None

    async def _next(self, most: int) -> Batch | None:
        """The next groups of this epoch, or where it is over of the next one."""
        found: list[Batch] = []
        while not found and (self._loop.steps or self._epoch < (self._loop.epochs or 1)):
            while raw := await next_of(self._source, self._loop.failures.read_seconds):
                self._read += len(raw[IDS])
                if self._read > self._skip:
                    found.append(raw)
                if len(found) * self._piece >= most:
                    return joined(found)
            if not found:
                self._begin(self._epoch + 1, 0)
        return joined(found) if found else None

    def _begin(self, epoch: int, skip: int) -> None:
        self._epoch, self._read, self._skip = epoch, 0, skip
        self._source = self._stages.source.batches(self._piece, epoch)

    async def _encoded(self, raw: Batch) -> Read:
        self._wave += 1
        self._admit(self._wave, raw[IDS])
        encoded = await self._run.device.beside(self._stages.model.encode, self._text(raw))
        for group, reason in encoded.dropped:
            self._run.bus.publish(GroupDropped(phase=self._run.phase, id=group, reason=reason, wave=self._wave))
        wave, size = Wave(self._wave, self._groups, encoded.batch), len(raw[IDS])
        self._groups += size
        return Read(wave, size, self._epoch, self._read, encoded.truncated, encoded.alike)

    def give_back(self, left: int) -> None:
        """Give a ticket back, unless there are as many as steps left."""
        if left >= self.tickets:
            self._free.release()
        else:
            self.tickets -= 1


async def open_source(source: Source, role: str, run: Run) -> DataInfo:
    """Open a source and say what it has. Raises RunFailed when that is nothing, and Stopped; UserError when it is
    another than before a resume."""
    info = await run.or_stopped(source.open)
    if info is None:
        raise Stopped
    before = run.opened.get((run.phase, role), info.digest)
    if before != info.digest:
        what = f"the {role} has the digest {info.digest}, and had {before} when this run began"
        mend = "give it the data that it had, or begin a new run: nobody knows where in others it stood"
        raise UserError(Problem(info.origin, what, mend))
    run.bus.publish(DataOpened(phase=run.phase, role=role, **info._asdict()))
    if info.groups == 0:
        raise RunFailed(f"the {role} {info.origin} has no groups to learn from")
    return info


async def next_of(batches: AsyncIterator[Batch], seconds: float) -> Batch | None:
    """The next batch of a source; None behind the last. Raises RunFailed for one that does not come within so many
    seconds, 0 for no limit, or that is none."""
    raw = None
    with anyio.move_on_after(seconds or math.inf) as patience:
        raw = await anext(batches, None)
    if patience.cancelled_caught:
        raise RunFailed(f"the source gave no batch within {seconds:g} s (loop.failures.read_seconds)")
    if raw is not None and (wrong := unsound(raw)):
        raise RunFailed(f"the source gave what is no batch: {wrong}")
    return raw

"""The online way: sample, score, learn, and sample anew with what was learned.

    [ticket] -> encode -> generate --channel--> score -> estimate --channel--> annotate -> learn -> weights are out
       ^                                                                                                  |
       +------------------------------------- the ticket comes back --------------------------------------+

A wave is what one step learns from: `batch` prompts and their completions. There are `staleness` + 1 tickets; a wave
holds one from before it is sampled until the weights it helped to make are out. Waves are learned from in the order in
which they got their tickets, so when wave n begins, the weights of step n - staleness - 1 are out at least, and what it
samples is at most `staleness` versions old when it is learned from. With staleness 0 sampling and learning take turns.
Nothing is sampled to be thrown away. While one wave is scored the next may be sampled.

A wave that lost groups may be filled up (`loop.refill`): what is missing is read as a wave of its own, for the same
ticket, and both are one step.

Every group that is admitted ends in one event: it was learned from, dropped, or a stage failed on it. A wave that is
under way when the run stops is sampled anew after a resume; where the data stands counts what was learned from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from truing.errors import RunFailed, first_cause
from truing.events import GroupDropped, GroupFailed, GroupTrained, Notice, WaveAdmitted
from truing.fields import IDS, Batch
from truing.groups import joined, part
from truing.journal import PhaseFolder, Position
from truing.looking import Looking
from truing.loop import Parts, Way, Work, train
from truing.reading import Read, Reading
from truing.recipe import Loop
from truing.run import Run
from truing.sampling import Metrics, Sampling, digest_of, numbers_of


async def online(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    """Learn from what the model itself writes. Raises RunFailed and UserError."""
    try:
        async with anyio.create_task_group() as beside:
            await _online(parts, loop, run, folder, beside)
            # Of a run that is asked to stop nothing goes on; of any other every look is over.
            beside.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise first_cause(group) from None


async def _online(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder, beside: TaskGroup) -> None:
    sampling = Sampling.of(parts, run, loop.failures)
    looking = Looking(parts.holdout, sampling, run, beside)
    waves = Waves(parts, sampling, run, looking, loop.batch, loop.refill)

    async def begin(start: Position) -> Way:
        sampling.attempts.read, sampling.attempts.failed = start.groups, start.failed
        await sampling.publish()
        await looking.open()
        ahead = loop.staleness
        return Way(sampling.text, waves.admit, waves.feed, waves.learned, looking.look, looking.over, ahead)

    with run.bus.subscribe(GroupDropped, GroupFailed) as ends:
        try:
            await train(parts, loop, run, folder, begin)
        finally:
            if not run.stop:
                waves.give_up(ends)


@dataclass(frozen=True)
class Sampled:
    """A wave with its completions. seconds: how long sampling took."""

    read: Read
    batch: Batch
    seconds: float


@dataclass(frozen=True)
class Judged:
    """A wave that was scored and compared. failed: groups that a stage failed on. seconds: how long it took in all."""

    read: Read
    scored: Batch
    batch: Batch
    failed: int
    seconds: float

    @property
    def left(self) -> Batch:
        """The groups that are left, as they were scored."""
        kept = set(self.batch[IDS])
        return part(self.scored, [at for at, name in enumerate(self.scored[IDS]) if name in kept])


@dataclass
class Waves:
    """Waves to learn from. size, refill: groups of a step, and how often it is filled up to have them. open: the ids of
    those that are under way, by number. short: whether one was not full after that."""

    parts: Parts
    sampling: Sampling
    run: Run
    looking: Looking
    size: int
    refill: int
    open: dict[int, Sequence[str]] = field(default_factory=dict[int, Sequence[str]])
    short: bool = False

    def admit(self, wave: int, ids: Sequence[str]) -> None:
        """Say that the groups of a wave were read."""
        # First it is said: where that fails, it was not admitted.
        self.run.bus.publish(WaveAdmitted(phase=self.run.phase, wave=wave, ids=list(ids)))
        self.open[wave] = ids
        self.sampling.attempts.read += len(ids)

    async def feed(self, reading: Reading, send: MemoryObjectSendStream[Work]) -> None:
        """Sample, and score what was sampled before beside it; or fill each wave up before the next is begun, so that
        which groups it gets does not depend on the clock."""
        if self.refill:
            async for read in reading.batches():
                await send.send(await self._work(await self._filled(read, reading)))
            return
        give, take = self.run.bus.channel(Sampled)
        try:
            async with take, anyio.create_task_group() as tasks, give:
                tasks.start_soon(self._judge, take, send)
                async for read in reading.batches():
                    await give.send(await self._sampled(read))
        except BaseExceptionGroup as group:
            raise first_cause(group) from None

    async def _judge(self, take: MemoryObjectReceiveStream[Sampled], send: MemoryObjectSendStream[Work]) -> None:
        async for sampled in take:
            await send.send(await self._work([await self._judged(sampled)]))

    async def _filled(self, read: Read, reading: Reading) -> Sequence[Judged]:
        """A wave, and further ones in place of what is lost of it, until there are as many groups as a step is to have,
        or it was filled up as often as it may be, or the data are at their end."""
        found = [await self._judged(await self._sampled(read))]
        while missing := self.size - sum(len(judged.batch[IDS]) for judged in found):
            if len(found) > self.refill:
                self._tell_short(read.wave.number, missing)
                break
            more = await reading.more(missing)
            if not more:
                break
            found.append(await self._judged(await self._sampled(more)))
        return found

    def _tell_short(self, wave: int, missing: int) -> None:
        """Say it the first time; `sample/refilled` has it of every step."""
        if not self.short:
            what = f"wave {wave} lacks {missing} of {self.size} groups after it was filled up {self.refill} times"
            mend = "set loop.refill higher, or give it prompts that are neither too easy nor too hard"
            self.run.bus.publish(Notice(phase=self.run.phase, text=f"{what}; {mend}"))
        self.short = True

    async def _sampled(self, read: Read) -> Sampled:
        began = time.perf_counter()
        batch = await self.sampling.generated(read.wave)
        return Sampled(read, batch, time.perf_counter() - began)

    async def _judged(self, sampled: Sampled) -> Judged:
        began, wave = time.perf_counter(), sampled.read.wave
        scored = await self.sampling.scored(sampled.batch, wave)
        failed = len(wave.prompts[IDS]) - len(scored[IDS])
        batch = await self.sampling.compared(scored, wave)
        return Judged(sampled.read, scored, batch, failed, sampled.seconds + time.perf_counter() - began)

    async def _work(self, waves: Sequence[Judged]) -> Work:
        """What a step is to learn from: a wave, or several that are one. These are compared again as a whole, for an
        estimator may look at all of a batch."""
        first, last = waves[0].read, waves[-1].read
        left = [judged for judged in waves if judged.batch[IDS]] or waves[:1]
        batch = left[0].batch
        if len(left) > 1:
            batch = await self.sampling.estimated(joined([judged.left for judged in left]), last.wave.number)
            if len(batch[IDS]) != sum(len(judged.batch[IDS]) for judged in left):
                raise RunFailed("the [advantage] leaves groups out depending on what else is there, so none can refill")
        read = replace(
            last,
            wave=last.wave._replace(first=first.wave.first),
            size=sum(judged.read.size for judged in waves),
            truncated=sum(judged.read.truncated for judged in waves),
            alike=sum(judged.read.alike for judged in waves),
        )
        metrics: Metrics = {}
        if batch[IDS]:
            metrics = {**numbers_of(batch), "speed/sample_seconds": sum(judged.seconds for judged in waves)}
            metrics |= {"sample/refilled": float(read.size - first.size)} if self.refill else {}
        failed = sum(judged.failed for judged in waves)
        by_number = {judged.read.wave.number: judged.batch for judged in waves}
        return Work(read, batch, metrics, failed, self.sampling.attempts.last, by_number)

    async def learned(self, work: Work, step: int) -> None:
        """After a step, or a wave that lost all its groups: say of which groups, and let the step's weights out."""
        for wave, batch in work.waves.items():
            del self.open[wave]
            if batch[IDS]:
                told = GroupTrained(
                    phase=self.run.phase, step=step, wave=wave, ids=list(batch[IDS]), digest=digest_of(batch)
                )
                self.run.bus.publish(told)
        if work.batch[IDS]:
            await self.looking.sampled()
            await self.sampling.publish()

    def give_up(self, ends: MemoryObjectReceiveStream[GroupDropped | GroupFailed]) -> None:
        """Say of the groups that are still under way that the phase ended before them. ends: those that were lost."""
        lost: set[tuple[int, str]] = set()
        for _ in range(ends.statistics().current_buffer_used):
            end = ends.receive_nowait()
            lost.add((end.wave, end.id))
        for wave, ids in self.open.items():
            for name in ids:
                if (wave, name) not in lost:
                    reason = "the phase ended before it was learned from"
                    self.run.bus.publish(GroupDropped(phase=self.run.phase, id=name, reason=reason, wave=wave))

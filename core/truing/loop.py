"""The loop: learn from groups, step by step.

    source.batches -> encode -> feed --channel--> annotate -> learn -> StepDone -> learned
           ^                                                                         |
           +--------------------- a ticket comes back -------------------------------+

What differs between learning from groups that exist and from groups that are sampled is a `Way`: what is made of a
batch before it is learned from, and what follows a step. They are in `offline` and `online`.

A batch holds a ticket from before it is read (`reading`) until what follows its step is done. A request to stop is
honoured between micro-batches; the checkpoint then taken is that of the last whole step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from truing.errors import RunFailed
from truing.events import BestKept, CheckpointSaved, Notice, PhaseStarted, StepDone
from truing.fields import IDS, VERSION, Batch, Fields
from truing.journal import MEMORY, PhaseFolder, Position
from truing.reading import Read, Reading, open_source
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.sampling import Metrics, Stages, timed
from truing.stage import Controller, DataInfo, Loss, Memory, Optimizer, Source
from truing.until import Mark, Watch

_PASSES = 2
"""how often the data may come round with no group left to learn from before the phase ends"""
_LAG_SECONDS = 0.05
"""how often the event loop is asked whether it is awake"""


@dataclass(frozen=True, kw_only=True)
class Parts(Stages):
    """What a loop puts together, all of it built."""

    optimizer: Optimizer
    loss: Loss
    needs: Fields
    """what is looked at of an annotated batch"""
    controller: Controller | None = None
    holdout: Source | None = None

    @property
    def memory(self) -> Memory | None:
        """What the loss remembers, if it does."""
        return getattr(self.loss, "memory", None)

    def weighed(self, batch: Batch) -> Batch:
        """The batch with what a controller sets, if there is one."""
        return self.controller.put(batch) if self.controller else batch

    def keep(self, folder: Path) -> None:
        """Write down what is needed to go on."""
        self.model.checkpoint(folder)
        if self.memory:
            (folder / MEMORY).write_bytes(msgspec.json.encode(self.memory.kept()))

    def restore(self, folder: Path) -> None:
        """Go on from what was written down."""
        self.model.restore(folder)
        if self.memory:
            self.memory.restore(msgspec.json.decode((folder / MEMORY).read_bytes()))


@dataclass(frozen=True)
class Work:
    """One batch to learn from, and numbers to report with it. failed: groups that a stage failed on. error: the last
    such failure, in words. waves: what is left of each wave it was made of, by number; of groups that are sampled."""

    read: Read
    batch: Batch
    metrics: Metrics
    failed: int = 0
    error: str = ""
    waves: Mapping[int, Batch] = field(default_factory=dict[int, Batch])


@dataclass(frozen=True)
class Way:
    """How groups come to be learned from.

    text: what is encoded of a batch. admit: called with the number and the ids of each batch that is read. feed: turns
    what was read into what is learned from, in the same order. learned: after each step, and for each batch that lost
    all its groups. evaluate: at a step, on what is kept out of training, empty if nothing is or nobody waits for it.
    settled: waits for what nobody waited for. ahead: batches that may be ready while one is learned from.
    """

    text: Callable[[Batch], Batch]
    admit: Callable[[int, Sequence[str]], None]
    feed: Callable[[Reading, MemoryObjectSendStream[Work]], Awaitable[None]]
    learned: Callable[[Work, int], Awaitable[None]]
    evaluate: Callable[[int], Awaitable[Metrics]]
    settled: Callable[[], Awaitable[None]]
    ahead: int = 1


async def train(
    parts: Parts, loop: Loop, run: Run, folder: PhaseFolder, begin: Callable[[Position], Awaitable[Way]]
) -> None:
    """Train until the steps are done or the run is asked to stop. begin: called when the model is as it was left."""
    info = await open_source(parts.source, "source", run)
    steps = loop.steps or math.ceil(info.groups / loop.batch) * (loop.epochs or 1)
    await run.on_device(parts.model.attach, parts.optimizer, steps)
    if parts.memory:
        parts.memory.begin(steps)
    start = await _restore(parts, run, folder)
    run.bus.publish(PhaseStarted(phase=run.phase, options=dict(parts.options), steps=steps, start=start.step))
    way = await begin(start)
    training = Training(parts, loop, run, folder, way, steps, start, info)
    if start.step == 0:
        await training.look(0)
    await training.go()
    if training.position.step == 0 and not run.stop:
        error = training.error
        told = f"the last failed at {error}" if error else "the dropped ones are in events.jsonl"
        raise RunFailed(f"no group of {info.origin} was left to learn from; {told}")
    await training.end()


class Training:
    """The steps of one phase. position: where it stands. error: the last failure of a stage, in words."""

    def __init__(
        self,
        parts: Parts,
        loop: Loop,
        run: Run,
        folder: PhaseFolder,
        way: Way,
        steps: int,
        start: Position,
        info: DataInfo,
    ) -> None:
        self._parts, self._loop, self._run, self._folder, self._way = parts, loop, run, folder, way
        self._steps, self._info = steps, info
        self._watch, self._best = Watch(loop.until, start.watched), start.best
        self.position, self.error = start, ""
        self._saved, self._looked, self._barren = start.step, -1, 0
        tickets = min(way.ahead + 1, steps - start.step)
        self._reading = Reading(parts, loop, run, start, tickets, way.text, way.admit)
        self._lag = 0.0

    async def go(self) -> None:
        """Take the steps."""
        send, receive = self._run.bus.channel(Work, depth=self._reading.tickets)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._measure_lag)
            tasks.start_soon(self._feed, send)
            async with receive:
                while self.position.step < self._steps and (work := await _next(receive, self._run)):
                    if not await (self._take(work) if work.batch[IDS] else self._pass(work)):
                        break
                # Cancel before the channel closes: a feeder that is still sending would meet a broken stream.
                tasks.cancel_scope.cancel()

    async def look(self, step: int) -> str:
        """Evaluate; why it is enough, "" if it is not, or if there was nothing to look at."""
        self._looked = step
        metrics = await self._way.evaluate(step)
        if not metrics:
            return ""
        if self._loop.best and (mark := self._loop.best.better(step, metrics, self._best)):
            await self._keep(mark, self._loop.best.metric)
        return self._watch.enough(metrics, held_out=True)

    async def end(self) -> None:
        """Look once more, and keep what a stop would lose, or go back to the best look."""
        last, run = self.position.step, self._run
        if self._looked != last:
            await self.look(last)
        await self._way.settled()
        if run.stop:
            if last > self._saved:
                await self._checkpoint()
        elif self._loop.best and self._best and self._best.step != last:
            await run.on_device(self._parts.restore, await run.on_device(self._folder.best))
            step, value = self._best
            self._tell(f"the model is that of step {step}, the best look: {self._loop.best.metric} was {value:.4g}")

    async def _take(self, work: Work) -> bool:
        """Learn from a batch; whether there is more to do."""
        step = self.position.step + 1
        metrics = await self._step(work, step)
        if not metrics:
            return False
        await self._way.learned(work, step)
        self._barren = 0
        enough = self._watch.enough(metrics, held_out=False)
        loop = self._loop
        if step < self._steps and loop.evaluate_every and step % loop.evaluate_every == 0:
            enough = await self.look(step) or enough
        if not enough:
            self._reading.give_back(self._steps - step)
        self.position = msgspec.structs.replace(
            self._after(work),
            step=step,
            watched=self._watch.watched,
            best=self._best,
            controller=dict(self._parts.controller.kept()) if self._parts.controller else {},
        )
        if loop.checkpoint_every and step % loop.checkpoint_every == 0:
            await self._checkpoint()
        if enough:
            self._tell(f"enough after step {step}: {enough}")
        return not enough

    async def _pass(self, work: Work) -> bool:
        """Go on without a batch that lost all its groups; whether there is hope for the next."""
        await self._way.learned(work, self.position.step)
        self.position = self._after(work)
        self._barren += work.read.size
        hopeless = self._barren >= _PASSES * self._info.groups
        if not hopeless:
            self._reading.give_back(self._steps - self.position.step)
        elif self.position.step:
            self._tell(f"it ends after step {self.position.step}: the data came round with nothing left to learn from")
        return not hopeless

    def _after(self, work: Work) -> Position:
        """Where the data stands after a batch."""
        at, read = self.position, work.read
        self.error = work.error or self.error
        return msgspec.structs.replace(
            at,
            epoch=read.epoch,
            read=read.read,
            waves=read.wave.number,
            groups=read.wave.first + read.size,
            dropped=at.dropped + read.size - len(work.batch[IDS]) - work.failed,
            failed=at.failed + work.failed,
            truncated=at.truncated + read.truncated,
            alike=at.alike + read.alike,
        )

    async def _feed(self, send: MemoryObjectSendStream[Work]) -> None:
        async with send:
            try:
                await self._way.feed(self._reading, send)
            except Stopped:
                return

    async def _step(self, work: Work, step: int) -> Metrics:
        """One optimizer step and its numbers; none if the run was asked to stop meanwhile."""
        age: Metrics = {}
        if VERSION in work.batch:
            age = {"sample/staleness": float(self._parts.model.version - min(map(int, work.batch[VERSION])))}
        began = time.perf_counter()
        try:
            with timed(self._run, "learn", work.read.wave.number):
                learned = await self._run.on_device(_learn, self._parts, work.batch)
        except Stopped:
            return {}
        seconds = time.perf_counter() - began
        after, epoch = self._after(work), work.read.epoch
        metrics = {
            **learned,
            **work.metrics,
            **age,
            **{f"data/{word}": float(getattr(after, word)) for word in ("dropped", "failed", "truncated", "alike")},
            "speed/step_seconds": seconds,
            "speed/tokens_per_second": learned.get("tokens", 0.0) / seconds,
            "speed/lag_seconds": self._lag,
        }
        self._lag = 0.0
        self._run.bus.publish(
            StepDone(phase=self._run.phase, step=step, steps=self._steps, epoch=epoch, metrics=metrics)
        )
        return metrics

    async def _measure_lag(self) -> None:
        """How late the event loop wakes who sleeps, at its worst since the last step: what keeps it from its work."""
        while True:
            began = time.perf_counter()
            await anyio.sleep(_LAG_SECONDS)
            self._lag = max(self._lag, time.perf_counter() - began - _LAG_SECONDS)

    async def _checkpoint(self) -> None:
        await self._way.settled()
        self._saved = self.position.step
        with timed(self._run, "checkpoint"):
            path = await self._run.on_device(self._folder.save, self.position, self._parts.keep, self._loop.keep)
        self._run.bus.publish(CheckpointSaved(phase=self._run.phase, step=self.position.step, path=str(path)))

    async def _keep(self, mark: Mark, metric: str) -> None:
        """Keep the weights of a look that was better than all before it."""
        self._best = mark
        with timed(self._run, "checkpoint"):
            await self._run.on_device(self._folder.keep_best, self._parts.keep)
        self._run.bus.publish(BestKept(phase=self._run.phase, step=mark.step, metric=metric, value=mark.value))

    def _tell(self, text: str) -> None:
        self._run.bus.publish(Notice(phase=self._run.phase, text=text))


async def _next(receive: MemoryObjectReceiveStream[Work], run: Run) -> Work | None:
    """The next batch; None when there is no more of them, and when the run is asked to stop."""
    try:
        return await run.or_stopped(receive.receive)
    except anyio.EndOfStream:
        return None


async def _restore(parts: Parts, run: Run, folder: PhaseFolder) -> Position:
    if not run.resumed:
        return Position()
    found, corrupt = await anyio.to_thread.run_sync(folder.newest)
    for what in corrupt:
        run.bus.publish(Notice(phase=run.phase, text=what))
    if found:
        await anyio.to_thread.run_sync(folder.back_to, found[0])
        await run.on_device(parts.restore, found[0])
        if parts.controller:
            parts.controller.restore(found[1].controller)
    return found[1] if found else Position()


def _learn(parts: Parts, batch: Batch) -> Mapping[str, float]:
    annotated = parts.model.annotate(parts.weighed(batch), parts.needs)
    found = parts.model.learn(annotated, parts.loss)
    if parts.memory:
        parts.memory.learned()
    return {**found, **parts.controller.follow(annotated)} if parts.controller else found

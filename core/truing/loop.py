"""The loop: learn from groups, step by step.

    source.batches -> encode -> ready --channel--> annotate -> learn -> StepDone -> learned
                                                                 |
                                              evaluate, checkpoint between steps

What differs between learning from groups that exist and from groups that are sampled is a `Way`: what is made of a
batch before it is learned from, and what follows a step. The way of groups that exist is here, the other in `online`.

Reading and encoding run one step ahead of learning. A request to stop is honoured between micro-batches; the checkpoint
then taken is that of the last whole step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from truing.errors import RunFailed
from truing.events import CheckpointSaved, DataOpened, Evaluated, GroupDropped, Notice, PhaseStarted, StepDone
from truing.fields import IDS, VERSION, Batch, Fields
from truing.journal import PhaseFolder, Position
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.sampling import Metrics, Stages
from truing.stage import DataInfo, Loss, Model, Optimizer, Source
from truing.until import Watch


@dataclass(frozen=True, kw_only=True)
class Parts(Stages):
    """What a loop puts together, all of it built."""

    optimizer: Optimizer
    loss: Loss
    needs: Fields
    """what the loss is handed, and nothing else"""
    holdout: Source | None = None


@dataclass(frozen=True)
class Way:
    """How groups come to be learned from.

    text: what is encoded of a batch. ready: what is learned from, of an encoded batch, and numbers to report with it.
    learned: after each step. evaluate: at a step, on what is kept out of training, empty if nothing is. ahead: batches
    that may be ready.
    """

    text: Callable[[Batch], Batch]
    ready: Callable[[Batch], Awaitable[tuple[Batch, Metrics]]]
    learned: Callable[[], Awaitable[None]]
    evaluate: Callable[[int], Awaitable[Metrics]]
    ahead: int = 1


@dataclass(frozen=True)
class Work:
    """One batch to learn from, numbers to report with it, and where the data stands after it."""

    batch: Batch
    metrics: Metrics
    position: Position


async def offline(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    """Learn from groups that exist. Raises RunFailed and UserError."""

    async def begin() -> Way:
        holdout = await _holdout(parts, run)
        return Way(_as_it_is, _at_once, _nothing, lambda step: _evaluate(parts, holdout, run, step))

    await train(parts, loop, run, folder, begin)


async def train(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder, begin: Callable[[], Awaitable[Way]]) -> None:
    """Train until the steps are done or the run is asked to stop. begin: called when the model is as it was left."""
    info = await open_source(parts.source, "source", run)
    steps = loop.steps or math.ceil(info.groups / loop.batch) * (loop.epochs or 1)
    await run.on_device(parts.model.attach, parts.optimizer, steps)
    start = await _restore(parts.model, run, folder)
    run.bus.publish(PhaseStarted(phase=run.phase, options=dict(parts.options), steps=steps, start=start.step))
    way, watch = await begin(), Watch(loop.until, start.watched)
    if start.step == 0:
        _judged(watch, await way.evaluate(0), held_out=True)
    send, receive = run.bus.channel(Work, depth=way.ahead)
    position, saved, looked = start, start.step, -1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, parts, loop, run, way, start, steps, send)
        async with receive:
            while (work := await _next(receive, run)) and (metrics := await _step(parts, work, run, steps)):
                await way.learned()
                enough = _judged(watch, metrics, held_out=False)
                step = work.position.step
                if step < steps and loop.evaluate_every and step % loop.evaluate_every == 0:
                    looked = step
                    enough = _judged(watch, await way.evaluate(step), held_out=True) or enough
                position = msgspec.structs.replace(work.position, watched=watch.watched)
                if loop.checkpoint_every and step % loop.checkpoint_every == 0:
                    await _checkpoint(parts.model, position, loop, run, folder)
                    saved = step
                if enough:
                    run.bus.publish(Notice(phase=run.phase, text=f"enough after step {step}: {enough}"))
                    break
            # Cancel before the channel closes: a feeder that is still sending would meet a broken stream.
            tasks.cancel_scope.cancel()
    if position.step == 0 and not run.stop:
        raise RunFailed(f"no group of {info.origin} was left to learn from; the dropped ones are in events.jsonl")
    if looked != position.step:
        await way.evaluate(position.step)
    if run.stop and position.step > saved:
        await _checkpoint(parts.model, position, loop, run, folder)


def _judged(watch: Watch, metrics: Metrics, *, held_out: bool) -> str:
    """Why it is enough, "" if it is not, or if there was nothing to look at."""
    return watch.enough(metrics, held_out) if metrics else ""


def _as_it_is(batch: Batch) -> Batch:
    return batch


async def _at_once(batch: Batch) -> tuple[Batch, Metrics]:
    return batch, {}


async def _nothing() -> None:
    pass


async def _next(receive: MemoryObjectReceiveStream[Work], run: Run) -> Work | None:
    """The next batch; None when there is no more of them, and when the run is asked to stop."""
    try:
        return await run.or_stopped(receive.receive)
    except anyio.EndOfStream:
        return None


async def open_source(source: Source, role: str, run: Run) -> DataInfo:
    info = await run.or_stopped(source.open)
    if info is None:
        raise Stopped
    run.bus.publish(DataOpened(phase=run.phase, role=role, **info._asdict()))
    if info.groups == 0:
        raise RunFailed(f"the {role} {info.origin} has no groups to learn from")
    return info


async def _restore(model: Model, run: Run, folder: PhaseFolder) -> Position:
    found = folder.newest() if run.resumed else None
    if found is None:
        return Position(step=0, epoch=0, taken=0)
    await run.on_device(model.restore, found[0])
    return found[1]


async def _feed(
    parts: Parts,
    loop: Loop,
    run: Run,
    way: Way,
    start: Position,
    steps: int,
    send: MemoryObjectSendStream[Work],
) -> None:
    """Read, encode and make ready ahead of the learner, from where the data stood; a batch that lost all its groups is
    no step."""
    step, dropped, truncated = start.step, start.dropped, start.truncated
    async with send:
        epoch = start.epoch
        while step < steps and (loop.steps or epoch < (loop.epochs or 1)):
            before, taken = step, 0
            async for raw in parts.source.batches(loop.batch, epoch):
                taken += 1
                if epoch == start.epoch and taken <= start.taken:
                    continue
                encoded = await anyio.to_thread.run_sync(parts.model.encode, way.text(raw))
                for group, reason in encoded.dropped:
                    run.bus.publish(GroupDropped(phase=run.phase, id=group, reason=reason))
                dropped, truncated = dropped + len(encoded.dropped), truncated + encoded.truncated
                if not encoded.batch[IDS]:
                    continue
                try:
                    batch, metrics = await way.ready(encoded.batch)
                except Stopped:
                    return
                dropped += len(encoded.batch[IDS]) - len(batch[IDS])
                if not batch[IDS]:
                    continue
                step += 1
                position = Position(step=step, epoch=epoch, taken=taken, dropped=dropped, truncated=truncated)
                await send.send(Work(batch, metrics, position))
                if step == steps:
                    return
            if step == before and epoch > start.epoch:
                return
            epoch += 1


async def _step(parts: Parts, work: Work, run: Run, steps: int) -> Metrics:
    """One optimizer step and its numbers; none if the run was asked to stop meanwhile."""
    age: Metrics = {}
    if VERSION in work.batch:
        age = {"sample/staleness": float(parts.model.version - min(map(int, work.batch[VERSION])))}
    began = time.perf_counter()
    try:
        learned = await run.on_device(_learn, parts, work.batch)
    except Stopped:
        return {}
    seconds = time.perf_counter() - began
    counts = {"data/dropped": float(work.position.dropped), "data/truncated": float(work.position.truncated)}
    speed = {"speed/step_seconds": seconds, "speed/tokens_per_second": learned.get("tokens", 0.0) / seconds}
    metrics = {**learned, **work.metrics, **age, **counts, **speed}
    position = work.position
    run.bus.publish(StepDone(phase=run.phase, step=position.step, steps=steps, epoch=position.epoch, metrics=metrics))
    return metrics


def _learn(parts: Parts, batch: Batch) -> Mapping[str, float]:
    return parts.model.learn(parts.model.annotate(batch, parts.needs), parts.loss)


async def _holdout(parts: Parts, run: Run) -> Batch | None:
    """The whole holdout as one batch, encoded and annotated once."""
    if parts.holdout is None:
        return None
    info = await open_source(parts.holdout, "holdout", run)
    async for raw in parts.holdout.batches(info.groups, 0):
        encoded = await anyio.to_thread.run_sync(parts.model.encode, raw)
        if encoded.dropped:
            what = (
                f"{len(encoded.dropped)} of {info.groups} groups of the holdout were dropped: {encoded.dropped[0][1]}"
            )
            run.bus.publish(Notice(phase=run.phase, text=what))
        if not encoded.batch[IDS]:
            raise RunFailed(f"every group of the holdout {info.origin} was dropped: {encoded.dropped[0][1]}")
        return await run.on_device(parts.model.annotate, encoded.batch, parts.needs)
    return None


async def _evaluate(parts: Parts, holdout: Batch | None, run: Run, step: int) -> Metrics:
    if holdout is None or run.stop:
        return {}
    try:
        metrics = await run.on_device(parts.model.measure, holdout, parts.loss)
    except Stopped:
        return {}
    run.bus.publish(Evaluated(phase=run.phase, step=step, metrics=dict(metrics)))
    return metrics


async def _checkpoint(model: Model, position: Position, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    path = await run.on_device(folder.save, position, model.checkpoint, loop.keep)
    run.bus.publish(CheckpointSaved(phase=run.phase, step=position.step, path=str(path)))

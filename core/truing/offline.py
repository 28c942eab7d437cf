"""The way of groups that exist: they are learned from as they are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from anyio.streams.memory import MemoryObjectSendStream

from truing.errors import RunFailed
from truing.events import Evaluated, Notice
from truing.fields import IDS, Batch
from truing.journal import PhaseFolder, Position
from truing.loop import Parts, Way, Work, train
from truing.reading import Reading, open_source
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.sampling import Metrics, timed


async def offline(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    """Learn from groups that exist. Raises RunFailed and UserError."""

    async def begin(start: Position) -> Way:
        holdout = await _holdout(parts, run)
        look = partial(_evaluate, parts, holdout, run)
        return Way(_as_it_is, _nothing, _at_once, _nothing_follows, look, _nothing_to_wait_for)

    await train(parts, loop, run, folder, begin)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _nothing(wave: int, ids: Sequence[str]) -> None:
    pass


async def _at_once(reading: Reading, send: MemoryObjectSendStream[Work]) -> None:
    async for read in reading.batches():
        await send.send(Work(read, read.wave.prompts, {}))


async def _nothing_follows(work: Work, step: int) -> None:
    pass


async def _nothing_to_wait_for() -> None:
    pass


async def _holdout(parts: Parts, run: Run) -> Batch | None:
    """The whole holdout as one batch, encoded and annotated once."""
    if parts.holdout is None:
        return None
    info = await open_source(parts.holdout, "holdout", run)
    async for raw in parts.holdout.batches(info.groups, 0):
        encoded = await run.device.beside(parts.model.encode, raw)
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
        with timed(run, "evaluate"):
            metrics = await run.on_device(parts.model.measure, parts.weighed(holdout), parts.loss)
    except Stopped:
        return {}
    run.bus.publish(Evaluated(phase=run.phase, step=step, metrics=dict(metrics)))
    return metrics

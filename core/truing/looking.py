"""Looking at what is kept out of training, in a phase that samples: prompts are answered and scored, none is learned.

A look is of one version of the weights. Where learning goes on beside it, no newer ones are published until all of it
is sampled; its scores may come later. It is over before the next look, before a checkpoint and before the phase is, so
none is lost where a run goes on from a checkpoint.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskGroup

from truing.errors import RunFailed
from truing.events import Evaluated, Notice, SamplesShown
from truing.fields import IDS, Batch
from truing.reading import open_source
from truing.run import Run, Stopped
from truing.sampling import Metrics, Sampling, Wave, numbers_of, timed
from truing.stage import Source


class Looking:
    """The looks of one phase. tasks: where those go on that nobody waits for."""

    def __init__(self, holdout: Source | None, sampling: Sampling, run: Run, tasks: TaskGroup) -> None:
        self._holdout, self._sampling, self._run, self._tasks = holdout, sampling, run, tasks
        self._look = sampling.stages.look
        self._held: Batch | None = None
        self._sampled, self._over = anyio.Event(), anyio.Event()
        self._sampled.set()
        self._over.set()

    async def open(self) -> None:
        """Read and encode the prompts that are kept out of training. Raises RunFailed where none is left."""
        if self._holdout is None:
            return
        info = await open_source(self._holdout, "holdout", self._run)
        async for raw in self._holdout.batches(info.groups, 0):
            encoded = await self._run.device.beside(self._sampling.stages.model.encode, self._sampling.text(raw))
            if not encoded.batch[IDS]:
                raise RunFailed(f"every prompt of the holdout {info.origin} was dropped: {encoded.dropped[0][1]}")
            self._held = self._look.asked(encoded.batch) if self._look else encoded.batch
            return

    async def look(self, step: int) -> Metrics:
        """What the model writes to the prompts that are kept out, in numbers; none where it is looked at beside."""
        if self._held is None or self._run.stop:
            return {}
        await self.over()
        self._sampled, self._over = anyio.Event(), anyio.Event()
        if self._sampling.stages.beside:
            self._tasks.start_soon(self._numbers, self._held, step)
            return {}
        return await self._numbers(self._held, step)

    async def sampled(self) -> None:
        """Wait until nothing more is sampled for a look from the weights that are out."""
        await self._run.or_stopped(self._sampled.wait)

    async def over(self) -> None:
        """Wait until the look that is under way is over."""
        await self._run.or_stopped(self._over.wait)

    async def _numbers(self, held: Batch, step: int) -> Metrics:
        wave = Wave(0, step, held)
        try:
            with timed(self._run, "evaluate"):
                answered = await self._sampling.generated(wave)
                self._sampled.set()
                batch = await self._sampling.scored(answered, wave)
        except Stopped:
            return {}
        finally:
            self._sampled.set()
            self._over.set()
        if lost := len(held[IDS]) - len(batch[IDS]):
            what = f"at step {step}, {lost} of {len(held[IDS])} groups of the holdout failed"
            self._run.bus.publish(Notice(phase=self._run.phase, text=what))
        if not batch[IDS]:
            return {}
        metrics = {**numbers_of(batch), **(self._look.numbers(batch) if self._look else {})}
        self._run.bus.publish(Evaluated(phase=self._run.phase, step=step, metrics=metrics))
        if self._look and (rows := self._look.rows(batch)):
            self._run.bus.publish(SamplesShown(phase=self._run.phase, step=step, rows=list(map(dict, rows))))
        return metrics

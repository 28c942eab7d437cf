"""The online way: sample, score, learn, and sample anew with what was learned.

    encode -> [ticket] -> generate -> score -> estimate --channel--> annotate -> learn -> weights are out
                 ^                                                                             |
                 +----------------------------- the ticket comes back -------------------------+

A wave is what one step learns from: `batch` prompts and their completions. There are `staleness` + 1 tickets; a wave
holds one from before it is sampled until the weights it helped to make are out. Waves are learned from in the order in
which they got their tickets, so when wave n begins, the weights of step n - staleness are out at least, and what it
samples is at most `staleness` versions old when it is learned from. With staleness 0 sampling and learning take turns.
Nothing is sampled to be thrown away.

A wave that is under way when the run stops is sampled anew after a resume; where the data stands counts what was
learned from.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from truing.errors import RunFailed
from truing.events import Evaluated
from truing.fields import IDS, Batch
from truing.journal import PhaseFolder
from truing.loop import Parts, Way, open_source, train
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.sampling import Metrics, Sampling, numbers_of


async def online(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    """Learn from what the model itself writes. Raises RunFailed and UserError."""
    waves = Waves(parts, Sampling(parts, run), run, anyio.Semaphore(loop.staleness + 1))

    async def begin() -> Way:
        await waves.sampling.publish()
        held = await waves.holdout()
        text, ahead = waves.sampling.text, loop.staleness
        return Way(text, waves.ready, waves.learned, lambda step: waves.evaluate(held, step), ahead)

    await train(parts, loop, run, folder, begin)


@dataclass(frozen=True)
class Waves:
    """Waves to learn from, and the tickets that bound how old they may grow."""

    parts: Parts
    sampling: Sampling
    run: Run
    tickets: anyio.Semaphore

    async def learned(self) -> None:
        """After a step: its weights are out, and its wave's ticket is free."""
        await self.sampling.publish()
        self.tickets.release()

    async def ready(self, prompts: Batch) -> tuple[Batch, Metrics]:
        """A wave, once it has a ticket. If none of its groups is left, the ticket comes back."""
        await self.tickets.acquire()
        wave, metrics = await self.sampling.wave(prompts)
        if not wave[IDS]:
            self.tickets.release()
        return wave, metrics

    async def holdout(self) -> Batch | None:
        """The prompts that are kept out of training, encoded."""
        if self.parts.holdout is None:
            return None
        info = await open_source(self.parts.holdout, "holdout", self.run)
        async for raw in self.parts.holdout.batches(info.groups, 0):
            encoded = await anyio.to_thread.run_sync(self.parts.model.encode, self.sampling.text(raw))
            if not encoded.batch[IDS]:
                raise RunFailed(f"every prompt of the holdout {info.origin} was dropped: {encoded.dropped[0][1]}")
            return encoded.batch
        return None

    async def evaluate(self, held: Batch | None, step: int) -> Metrics:
        """What the model writes to prompts that are kept out of training, scored."""
        if held is None or self.run.stop:
            return {}
        try:
            metrics = numbers_of(await self.sampling.scored(held))
        except Stopped:
            return {}
        self.run.bus.publish(Evaluated(phase=self.run.phase, step=step, metrics=metrics))
        return metrics

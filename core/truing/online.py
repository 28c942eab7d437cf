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

import time
from collections.abc import Iterable
from dataclasses import dataclass

import anyio

from truing.errors import RunFailed
from truing.events import Evaluated, GroupDropped
from truing.fields import ANSWERS, COMPLETIONS, FINISH, GROUP, IDS, SCORES, TOKENS, Batch
from truing.journal import PhaseFolder
from truing.loop import Metrics, Parts, Way, open_source, train
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.stage import Generator


async def online(parts: Parts, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    """Learn from what the model itself writes. Raises RunFailed and UserError."""
    assert parts.generator, "check lets no online phase through without a generator"
    sampling = Sampling(parts, parts.generator, run, anyio.Semaphore(loop.staleness + 1))

    async def begin() -> Way:
        await sampling.publish()
        held = await sampling.holdout()
        return Way(
            prompts_of, sampling.ready, sampling.learned, lambda step: sampling.evaluate(held, step), loop.staleness
        )

    await train(parts, loop, run, folder, begin)


@dataclass(frozen=True)
class Sampling:
    """Waves from prompts, and the tickets that bound how old they may grow."""

    parts: Parts
    generator: Generator
    run: Run
    tickets: anyio.Semaphore

    async def publish(self) -> None:
        """Have the generator sample from the model's weights as they are."""
        await self.generator.sync_weights(self.parts.model.weights())

    async def learned(self) -> None:
        """After a step: its weights are out, and its wave's ticket is free."""
        await self.publish()
        self.tickets.release()

    async def ready(self, prompts: Batch) -> tuple[Batch, Metrics]:
        """A wave, once it has a ticket. Groups that the estimator leaves out are dropped; if none is left, the ticket
        comes back."""
        await self.tickets.acquire()
        began = time.perf_counter()
        wave = await self.sampled(prompts)
        if self.parts.advantage:
            wave = await self.run.on_device(self.parts.advantage.estimate, wave)
        seconds = time.perf_counter() - began
        for lost in dict.fromkeys(prompts[IDS]).keys() - set(wave[IDS]):
            reason = "its completions teach nothing: they scored alike"
            self.run.bus.publish(GroupDropped(phase=self.run.phase, id=lost, reason=reason))
        if not wave[IDS]:
            self.tickets.release()
            return wave, {}
        return wave, {**numbers_of(wave), "speed/sample_seconds": seconds}

    async def sampled(self, prompts: Batch) -> Batch:
        """Prompts with completions, and with scores if there is a scorer."""
        batch = await self.generator.generate(prompts)
        return await self.parts.scorer.score(batch) if self.parts.scorer else batch

    async def holdout(self) -> Batch | None:
        """The prompts that are kept out of training, encoded."""
        if self.parts.holdout is None:
            return None
        info = await open_source(self.parts.holdout, "holdout", self.run)
        async for raw in self.parts.holdout.batches(info.groups, 0):
            encoded = await anyio.to_thread.run_sync(self.parts.model.encode, prompts_of(raw))
            if not encoded.batch[IDS]:
                raise RunFailed(f"every prompt of the holdout {info.origin} was dropped: {encoded.dropped[0][1]}")
            return encoded.batch
        return None

    async def evaluate(self, held: Batch | None, step: int) -> None:
        """What the model writes to prompts that are kept out of training, scored."""
        if held is None or self.run.stop:
            return
        try:
            metrics = numbers_of(await self.sampled(held))
        except Stopped:
            return
        self.run.bus.publish(Evaluated(phase=self.run.phase, step=step, metrics=metrics))


def prompts_of(batch: Batch) -> Batch:
    """What is sampled from: the prompts, and as ANSWERS the first completion each came with."""
    first = dict(zip(reversed(_numbers(batch[GROUP])), reversed(batch[COMPLETIONS]), strict=True))
    answers = [first.get(float(group), "") for group in range(len(batch[IDS]))]
    kept = {key: value for key, value in batch.items() if key.dims in ("", "group")}
    return Batch({**kept, ANSWERS: answers, GROUP: batch[GROUP][:0], COMPLETIONS: []})


def numbers_of(wave: Batch) -> dict[str, float]:
    """What a person wants to see of what was sampled."""
    count = len(wave[COMPLETIONS])
    found = {"sample/length": len(wave[TOKENS]) / count}
    if FINISH in wave:
        found["sample/cut"] = wave[FINISH].count("length") / count
    if SCORES in wave:
        scores = _numbers(wave[SCORES])
        found["score"] = sum(scores) / count
        found["score/deviation"] = (sum((score - found["score"]) ** 2 for score in scores) / count) ** 0.5
    return found


def _numbers(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values]  # pyright: ignore[reportArgumentType]

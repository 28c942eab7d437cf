"""Waves: prompts for which completions are sampled, scored and compared.

    prompts -> generate -> score -> estimate -> wave

What becomes of a wave is the affair of others: `online` learns from it, `collect` keeps it as data. Without a generator
the completions are those the source brought.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from statistics import fmean

from truing.events import GroupDropped
from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    OPPONENT,
    SCORE_PARTS,
    SCORES,
    SCORES_STD,
    TOKENS,
    Batch,
)
from truing.run import Run
from truing.stage import AdvantageEstimator, Generator, Model, Scorer, Source

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What every phase puts together, all of it built."""

    source: Source
    model: Model
    generator: Generator | None = None
    scorer: Scorer | None = None
    advantage: AdvantageEstimator | None = None
    options: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class Sampling:
    """Waves from prompts."""

    stages: Stages
    run: Run

    async def publish(self) -> None:
        """Have the generator sample from the model's weights as they are."""
        if self.stages.generator:
            await self.stages.generator.sync_weights(self.stages.model.weights())

    def text(self, batch: Batch) -> Batch:
        """What is encoded of a batch: the prompts alone, if a generator writes the completions."""
        return prompts_of(batch) if self.stages.generator else batch

    async def wave(self, prompts: Batch) -> tuple[Batch, Metrics]:
        """A wave, and numbers to report with it. Groups that the estimator leaves out are dropped."""
        began = time.perf_counter()
        wave = await self.scored(prompts)
        if self.stages.advantage:
            wave = await self.run.on_device(self.stages.advantage.estimate, wave)
        seconds = time.perf_counter() - began
        for lost in dict.fromkeys(prompts[IDS]).keys() - set(wave[IDS]):
            reason = "its completions teach nothing: they are alike, or scored alike"
            self.run.bus.publish(GroupDropped(phase=self.run.phase, id=lost, reason=reason))
        return wave, {**numbers_of(wave), "speed/sample_seconds": seconds} if wave[IDS] else {}

    async def scored(self, prompts: Batch) -> Batch:
        """Prompts with completions, and with scores if there is a scorer."""
        batch = await self.stages.generator.generate(prompts) if self.stages.generator else prompts
        return await self.stages.scorer.score(batch) if self.stages.scorer else batch


def prompts_of(batch: Batch) -> Batch:
    """What is sampled from: the prompts, and as ANSWERS the first completion each came with."""
    first = dict(zip(reversed(_numbers(batch[GROUP])), reversed(batch[COMPLETIONS]), strict=True))
    answers = [first.get(float(group), "") for group in range(len(batch[IDS]))]
    kept = {key: value for key, value in batch.items() if key.dims in ("", "group")}
    return Batch({**kept, ANSWERS: answers, GROUP: batch[GROUP][:0], COMPLETIONS: []})


def numbers_of(wave: Batch) -> dict[str, float]:
    """What a person wants to see of what was sampled. What an opponent wrote does not count, but for the lengths."""
    own = [not at for at in _numbers(wave[OPPONENT])] if OPPONENT in wave else [True] * len(wave[COMPLETIONS])
    found = {"sample/length": len(wave[TOKENS]) / len(own)}
    if FINISH in wave:
        found["sample/cut"] = fmean(float(finish == "length") for finish in compress(wave[FINISH], own))
    if SCORES in wave:
        scores = list(compress(_numbers(wave[SCORES]), own))
        found["score"] = fmean(scores)
        found["score/deviation"] = fmean((score - found["score"]) ** 2 for score in scores) ** 0.5
    if SCORES_STD in wave:
        found["score/disagreement"] = fmean(compress(_numbers(wave[SCORES_STD]), own))
    parts: list[dict[str, float]] = list(compress(wave[SCORE_PARTS], own)) if SCORE_PARTS in wave else []
    names = {name: None for part in parts for name in part}
    return {**found, **{f"score/{name}": fmean(part[name] for part in parts if name in part) for name in names}}


def _numbers(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values]  # pyright: ignore[reportArgumentType]

"""Waves: prompts for which completions are sampled, scored and compared.

    prompts -> generate -> score -> estimate -> wave

What becomes of a wave is the affair of others: `online` learns from it, `collect` keeps it as data. Without a generator
the completions are those the source brought. A group that the generator or the scorer fails on is lost, and no other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator as Yields, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from statistics import fmean
from typing import NamedTuple

import msgspec

from truing.attempts import Attempts, Failures
from truing.events import GroupDropped, StageEnded
from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    HEARD,
    IDS,
    OPPONENT,
    SAMPLES,
    SCORE_PARTS,
    SCORES,
    SCORES_STD,
    SEEDS,
    TEMPERATURE,
    TOKENS,
    TURNS,
    Batch,
)
from truing.groups import plain
from truing.run import Run
from truing.script import Turns
from truing.stage import AdvantageEstimator, Generator, Look, Model, Scorer, Source

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What every phase puts together, all of it built."""

    source: Source
    model: Model
    generator: Generator | None = None
    scorer: Scorer | None = None
    advantage: AdvantageEstimator | None = None
    look: Look | None = None
    beside: bool = False
    """whether learning goes on while a look is taken"""
    options: Mapping[str, object] = field(default_factory=dict[str, object])


class Wave(NamedTuple):
    """Prompts that were read together. number: of the wave in its phase, from 1; 0: the holdout. first: how many groups
    the phase had read before."""

    number: int
    first: int
    prompts: Batch


@dataclass(frozen=True)
class Sampling:
    """Waves from prompts."""

    stages: Stages
    run: Run
    attempts: Attempts
    turns: Turns

    @classmethod
    def of(cls, stages: Stages, run: Run, failures: Failures) -> Sampling:
        """The sampling of a phase; that of a run that is replayed keeps to what it did."""
        turns = Turns(run.script.versions(run.phase) if run.script else None)
        return cls(stages, run, Attempts(run, failures, turns), turns)

    async def publish(self) -> None:
        """Have the generator sample from the model's weights as they are."""
        if self.stages.generator:
            await self.turns.done_with()
            weights = self.stages.model.weights()
            with timed(self.run, "publish"):
                await self.attempts.in_time(partial(self.stages.generator.sync_weights, weights))
            await self.turns.out(weights.version)

    def text(self, batch: Batch) -> Batch:
        """What is encoded of a batch: the prompts alone, if a generator writes the completions."""
        return prompts_of(batch) if self.stages.generator else batch

    async def generated(self, wave: Wave) -> Batch:
        """The prompts with completions; groups that the generator fails on are lost."""
        if not self.stages.generator or not wave.prompts[IDS]:
            return wave.prompts
        own = "group" if wave.number else "holdout"
        seeds = [
            self.run.seed_for(own, self.run.phase, wave.first + at, name) for at, name in enumerate(wave.prompts[IDS])
        ]
        answer = await self.attempts(
            "generate", self.stages.generator.generate, wave.prompts.put(SEEDS, seeds), wave.number
        )
        return answer.only(frozenset(answer) - {SEEDS, SAMPLES, TEMPERATURE})

    async def scored(self, batch: Batch, wave: Wave) -> Batch:
        """Completions with their scores, if there is a scorer; groups that it fails on are lost."""
        if not self.stages.scorer or not batch[IDS]:
            return batch
        return await self.attempts("score", self.stages.scorer.score, batch, wave.number)

    async def compared(self, batch: Batch, wave: Wave) -> Batch:
        """Scored completions with their advantages. Groups that the estimator leaves out are dropped."""
        if not batch[IDS]:
            return batch
        kept = await self.estimated(batch, wave.number)
        for lost in dict.fromkeys(batch[IDS]).keys() - set(kept[IDS]):
            reason = "its completions teach nothing: they are alike, or scored alike"
            self.run.bus.publish(GroupDropped(phase=self.run.phase, id=lost, reason=reason, wave=wave.number))
        return kept

    async def estimated(self, batch: Batch, wave: int) -> Batch:
        """What the estimator makes of scored completions."""
        if not self.stages.advantage:
            return batch
        with timed(self.run, "estimate", wave):
            return await self.run.on_device(self.stages.advantage.estimate, batch)


@contextmanager
def timed(run: Run, stage: str, wave: int = 0) -> Yields[None]:
    """Say how long a piece of work took, unless it raises."""
    began = time.time()
    yield
    run.bus.publish(StageEnded(phase=run.phase, stage=stage, wave=wave, began=began, seconds=time.time() - began))


def prompts_of(batch: Batch) -> Batch:
    """What is sampled from: the prompts, and as ANSWERS the first completion each came with."""
    first = dict(zip(reversed(_numbers(batch[GROUP])), reversed(batch[COMPLETIONS]), strict=True))
    answers = [first.get(float(group), "") for group in range(len(batch[IDS]))]
    kept = {key: value for key, value in batch.items() if key.dims in ("", "group")}
    return Batch({**kept, ANSWERS: answers, GROUP: batch[GROUP][:0], COMPLETIONS: []})


def digest_of(batch: Batch) -> str:
    """A short name for exactly these completions, tokens and scores, whatever they were made by."""
    told = [batch[IDS], batch[COMPLETIONS], *(plain(batch[key]) for key in (TOKENS, HEARD, SCORES) if key in batch)]
    return hashlib.blake2b(msgspec.json.encode(told), digest_size=8).hexdigest()


def numbers_of(wave: Batch) -> dict[str, float]:
    """What a person wants to see of what was sampled. What an opponent wrote does not count, but for the lengths."""
    own = [not at for at in _numbers(wave[OPPONENT])] if OPPONENT in wave else [True] * len(wave[COMPLETIONS])
    found = {"sample/length": len(wave[TOKENS]) / len(own)}
    if not any(own):
        return found
    if FINISH in wave:
        found["sample/cut"] = fmean(float(finish not in ("end", "stop")) for finish in compress(wave[FINISH], own))
    if TURNS in wave:
        found["sample/turns"] = fmean(_numbers(wave[TURNS]))
        found["sample/heard"] = len(wave[HEARD]) / len(own)
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

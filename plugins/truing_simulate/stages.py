"""Stages that take the time they are told to and write nothing, for the loop that trains for real.

Times are divided by `unit`: the loop looks up twenty times a second, and needs no more of that than a few times a step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import anyio
import numpy as np

from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPTS,
    SCORES,
    SEEDS,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
    Field,
    Fields,
    fields,
)
from truing.groups import part
from truing.protocols import DataInfo, DeclaredLoss, Encoded, LossValue
from truing.run import Run
from truing_simulate.clock import Beside, Device
from truing_simulate.pace import Counts, Pace, Places

LENGTH: Field[Counts] = Field("simulated_length", "seq", "int64")
LUCK: Field[list[float]] = Field("simulated_luck", "group")


class Work(NamedTuple):
    """A piece of work, by the simulated time. busy: the share of the devices that were at work."""

    stage: str
    began: float
    seconds: float
    busy: float = 1.0


@dataclass
class Stage:
    """What every stage knows. works: what was done. drawn: lengths by the seeds of their groups. beside: what goes on
    at the same time."""

    pace: Pace
    places: Places
    samples: int
    unit: float
    run: Run
    works: list[Work]
    drawn: dict[tuple[int, ...], Counts]
    beside: Beside

    def noisy(self, stage: str, seconds: float) -> float:
        """Seconds as they varied where they were measured, in that order: what slows one stage down often slows the
        others, too."""
        noise = self.pace.noise.get(stage, ())
        at = sum(work.stage == stage for work in self.works)
        return seconds * noise[at % len(noise)] if noise else seconds

    async def takes(self, stage: str, seconds: float, busy: float = 1.0) -> None:
        """Let pass what work takes that would take so many seconds with nothing beside it."""
        began = anyio.current_time()
        await self.beside.work(stage, seconds / self.unit)
        self.works.append(Work(stage, began * self.unit, (anyio.current_time() - began) * self.unit, busy))


class Endless:
    """A source of prompts that never runs dry."""

    async def open(self) -> DataInfo:
        return DataInfo(name="simulated", digest="", groups=2**40, skipped=0, origin="nowhere")

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        at = 0
        while True:
            names = [str(number) for number in range(at, at + size)]
            yield Batch({IDS: names, PROMPTS: names, COMPLETIONS: [], GROUP: []})
            at += size


@dataclass
class Weights:
    version: int
    origin: str = ""


class Learner:
    """A model whose steps cost what the pace says. It is the device that lets time pass: `takes`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.version = 0

    def encode(self, batch: Batch) -> Encoded:
        return Encoded(batch)

    def attach(self, optimizer: object, steps: int) -> None: ...

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        return batch

    def learn(self, batch: Batch, loss: object) -> Mapping[str, float]:
        self.version += 1
        return {"tokens": float(np.sum(batch[LENGTH]))}

    def weights(self) -> Any:
        return Weights(self.version)

    async def takes(self, work: str, *args: object) -> None:
        """Let pass what a piece of work takes."""
        if work == "_learn":
            stage, batch = self._stage, cast(Batch, args[1])
            seconds = stage.pace.learn(np.array(batch[LENGTH]), stage.places)
            await stage.takes("learn", stage.noisy("learn", seconds))


class Sampler:
    """Completions of random lengths, and nothing in them."""

    def __init__(self, stage: Stage, device: Device) -> None:
        self._stage, self._device = stage, device
        self._talking = anyio.Lock()
        self._version = -1

    async def sync_weights(self, weights: Weights) -> None:
        """On a device of its own they are read beside what is sampled from those before, and sampled from next."""
        if self._stage.places.shared:
            async with self._talking:
                await self._read(weights)
        else:
            await self._read(weights)

    async def _read(self, weights: Weights) -> None:
        stage = self._stage
        await stage.takes("publish", stage.noisy("publish", stage.pace.publish(stage.places)))
        self._version = weights.version

    async def generate(self, batch: Batch) -> Batch:
        """In turns with learning where both are on the same devices."""
        async with self._talking:
            if not self._stage.places.shared:
                return await self._sampled(batch)
            async with self._device.free:
                return await self._sampled(batch)

    async def _sampled(self, batch: Batch) -> Batch:
        stage, seeds, version = self._stage, tuple(batch[SEEDS]), self._version
        if seeds not in stage.drawn:
            stage.drawn[seeds] = stage.pace.lengths.draw(list(seeds), stage.samples)
        lengths = stage.drawn[seeds]
        wave = stage.pace.generate(lengths, stage.places)
        await stage.takes("generate", stage.noisy("generate", wave.seconds), wave.busy)
        count = lengths.size
        # As arrays, of which the loop need not look at every entry.
        return batch.put_all(
            {
                COMPLETIONS: [""] * count,
                GROUP: np.arange(count) // stage.samples,
                TOKENS: [],
                SEQ: [],
                VERSION: np.full(count, version),
                LENGTH: lengths.ravel(),
                LUCK: [stage.run.seed_for("luck", seed) % 10**6 / 10**6 for seed in seeds],
            }
        )


class Scorer:
    """Scores that say nothing."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def score(self, batch: Batch) -> Batch:
        count = len(batch[COMPLETIONS])
        seconds = self._stage.pace.score(count, self._stage.places)
        await self._stage.takes("score", self._stage.noisy("score", seconds))
        return batch.put(SCORES, [0.0] * count)  # pyright: ignore[reportArgumentType]


class Chooser:
    """Leaves out as many groups as an estimator did."""

    def __init__(self, stage: Stage) -> None:
        self._dropped = stage.pace.dropped

    def estimate(self, batch: Batch) -> Batch:
        if not self._dropped:
            return batch
        kept = [at for at, luck in enumerate(batch[LUCK]) if luck >= self._dropped]
        return batch if len(kept) == len(batch[IDS]) else part(batch, kept)


class Still:
    """An optimizer that moves nothing."""

    clip = 0.0

    def over(self, parameters: object, steps: int) -> Any:
        raise AssertionError("nothing is moved")


NO_LOSS = DeclaredLoss(lambda batch: LossValue({}), fields())

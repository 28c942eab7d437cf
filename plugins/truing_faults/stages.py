"""Stages that fail: each asks the one inside of it, and what becomes of that is drawn."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection
from typing import Any

from truing.events import Event
from truing.fields import Batch, Field
from truing.groups import plain
from truing.run import Run
from truing.stage import DataInfo, Episode, Reply, Said, Task, Weights
from truing_faults import menu_stages as menu
from truing_faults.chance import Chance


class FaultySource:
    """Batches of another source."""

    def __init__(self, spec: menu.FaultySource, run: Run) -> None:
        self._inside, self._chance = spec.source.build(run), Chance(spec, run, "source")

    async def open(self) -> DataInfo:
        """As it is."""
        return await self._inside.open()

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        """Those of the source inside, or what is wrong with them. Raises RunFailed."""
        async for batch in self._inside.batches(size, epoch):
            yield spoilt(batch, await self._chance.meet(), batch.keys(), self._chance)


class FaultyGenerator:
    """Completions of another generator."""

    def __init__(self, spec: menu.FaultyGenerator, run: Run) -> None:
        self._provides, self._weights = spec.provides(), spec.weights
        self._inside, self._chance = spec.generator.build(run), Chance(spec, run, "generator")

    async def generate(self, batch: Batch) -> Batch:
        """Those of the generator inside, or what is wrong with them. Raises RunFailed."""
        wrong = await self._chance.meet()
        return spoilt(await self._inside.generate(batch), wrong, self._provides, self._chance)

    async def sync_weights(self, weights: Weights) -> None:
        """Have the generator inside take weights, unless that fails. Raises RunFailed."""
        if self._weights:
            await self._chance.meet()
        await self._inside.sync_weights(weights)


class FaultyScorer:
    """Scores of another scorer."""

    def __init__(self, spec: menu.FaultyScorer, run: Run) -> None:
        self._provides = spec.provides()
        self._inside, self._chance = spec.scorer.build(run), Chance(spec, run, "scorer")

    async def score(self, batch: Batch) -> Batch:
        """Those of the scorer inside, or what is wrong with them. Raises RunFailed."""
        wrong = await self._chance.meet()
        return spoilt(await self._inside.score(batch), wrong, self._provides, self._chance)


class FaultyEnvironment:
    """Rollouts in another environment."""

    def __init__(self, spec: menu.FaultyEnvironment, run: Run) -> None:
        self._inside, self._chance = spec.environment.build(run), Chance(spec, run, "environment")

    async def reset(self, task: Task) -> Episode:
        """A rollout that may fail. Raises RunFailed."""
        await self._chance.meet()
        return FaultyEpisode(await self._inside.reset(task), self._chance)


class FaultyEpisode:
    """A rollout that may fail at any turn."""

    def __init__(self, inside: Episode, chance: Chance) -> None:
        self._inside, self._chance = inside, chance

    async def step(self, said: Said) -> Reply:
        """The reply of the environment inside, or what is wrong with it. Raises RunFailed."""
        wrong, reply = await self._chance.meet(), await self._inside.step(said)
        spoils: dict[str, dict[str, Any]] = {"nan": {"reward": math.nan}, "short": {"text": ""}, "type": {"text": 0}}
        return reply._replace(**spoils.get(wrong, {}))

    async def close(self) -> None:
        """As it is."""
        await self._inside.close()


class FaultyObserver:
    """Watches as another observer does."""

    def __init__(self, spec: menu.FaultyObserver, run: Run) -> None:
        self._inside, self._chance = spec.observer.build(run), Chance(spec, run, "observer")

    async def open(self) -> None:
        """As it is."""
        await self._inside.open()

    async def observe(self, event: Event) -> None:
        """As the observer inside, unless it fails. Raises RunFailed."""
        await self._chance.meet()
        await self._inside.observe(event)

    async def close(self) -> None:
        """As it is."""
        await self._inside.close()


def spoilt(batch: Batch, wrong: str, own: Collection[Field[Any]], chance: Chance) -> Batch:
    """The batch with something wrong in one of these fields that has entries: what is asked for, where there is one
    that it can befall."""
    some = [key for key in batch if key in own and key.dims and len(batch[key])]
    if wrong == "nan":
        some = [key for key in some if key.dtype == "float32"]
    if not wrong or not some:
        return batch
    key = chance.random.choice(sorted(some, key=lambda each: each.name))
    value = batch[key]
    match wrong:
        case "nan":
            spoiled = _with_nan(value)
        case "short":
            spoiled = value[:-1]
        case _:
            spoiled = ["?" if key.dtype else 0] * len(plain(value))
    return batch.put(key, spoiled)


def _with_nan(value: Any) -> Any:
    spoiled = value.clone() if hasattr(value, "clone") else list(value)
    spoiled[0] = math.nan
    return spoiled

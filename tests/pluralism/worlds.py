"""Planted people, and rewards that are linear in the letters of a string: what a loss comes to, without a model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truing.fields import ANNOTATOR, CHOSEN, COMPLETIONS, GROUP, IDS, REJECTED, STRATUM, Batch
from truing.stage import DeclaredLoss, LossSpec
from truing_model.step import StepSums, counts_of
from truing_pluralism.menu_planted import PlantedAnnotators
from truing_pluralism.planted import PlantedPeople
from truing_tensor.groups import batch_of, take

Model = Callable[[Tensor, Batch], Batch]
"""The letters of completions [seq, letter] and their batch to the batch with what a model adds."""


@dataclass(frozen=True)
class World:
    """Comparisons to learn from, and others of the same people."""

    people: PlantedPeople
    learned: Batch
    held: Batch

    def letters(self, batch: Batch) -> Tensor:
        """How often each letter is in each completion, scaled; [seq, letter]"""
        spec = self.people.spec
        found = torch.zeros(len(batch[GROUP]), spec.letters)
        for at, said in enumerate(batch[COMPLETIONS]):
            for letter in said[0]["content"]:  # type: ignore[index]
                found[at, ord(letter) - ord("a")] += spec.length**-0.5
        return found

    def right(self, margins: Tensor) -> dict[str, float]:
        """The share of held-out pairs of each group of which a margin [pair] is above 0."""
        strata = self.held[STRATUM]
        return {
            name: float((margins[[at for at, some in enumerate(strata) if some == name]] > 0).float().mean())
            for name in self.people.spec.strata
        }


def world(each: int, held: int = 1200, shuffled: bool = False, **options: Any) -> World:
    """So many comparisons of each annotator, and `held` others. shuffled: who compared what is dealt out anew."""
    spec = PlantedAnnotators(**options)
    size = each * spec.annotators
    people = PlantedPeople(PlantedAnnotators(**options, size=size))
    learned = batch_of(people.groups())
    if shuffled:
        names = list(learned[ANNOTATOR])
        random.Random(0).shuffle(names)
        learned = learned.put(ANNOTATOR, names)
    return World(people, learned, batch_of(PlantedPeople(PlantedAnnotators(**options, skip=size, size=held)).groups()))


def teach(
    world: World,
    spec: LossSpec,
    model: Model,
    weights: Sequence[Tensor],
    epochs: int,
    size: int = 30,
    rate: float = 0.1,
) -> DeclaredLoss:
    """Learn the weights of a model with a loss; the loss, as it is in the end."""
    nobody: Any = None
    loss: Any = spec.build(nobody)
    count = len(world.learned[IDS])
    steps = epochs * (count // size)
    if loss.memory:
        loss.memory.begin(steps)
    optimizer = torch.optim.Adam(weights, lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    letters, order = world.letters(world.learned), list(range(count))
    for epoch in range(epochs):
        random.Random(epoch).shuffle(order)
        for start in range(0, count - size + 1, size):
            chosen = order[start : start + size]
            seqs = [seq for at in chosen for seq in (2 * at, 2 * at + 1)]
            batch = take(world.learned, chosen)
            value = loss(model(letters[seqs], batch))
            sums = StepSums(counts_of(batch))
            optimizer.zero_grad()
            torch.stack(
                [term.weight * term.total / sums.denominator(term) for term in value.terms.values()]
            ).sum().backward()
            optimizer.step()
            schedule.step()
            if loss.memory:
                loss.memory.learned()
    return loss


def margins(scores: Tensor, batch: Batch) -> Tensor:
    """[pair, ...] of [seq, ...]"""
    return scores[batch[CHOSEN]] - scores[batch[REJECTED]]


def adjusted_rand(one: Sequence[Any], other: Sequence[Any]) -> float:
    """The adjusted Rand index of two partitions (Hubert and Arabie, 1985): 1 for the same one, 0 by chance."""

    def couples(parts: Any) -> float:
        return sum(count * (count - 1) / 2 for count in Counter(parts).values())

    both, first, second, every = (
        couples(zip(one, other, strict=True)),
        couples(one),
        couples(other),
        couples([0] * len(one)),
    )
    chance = first * second / every
    most = (first + second) / 2
    return (both - chance) / (most - chance) if most != chance else 1.0

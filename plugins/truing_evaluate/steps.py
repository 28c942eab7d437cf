"""Whether scores of steps find the first wrong one: ProcessBench's measure (arXiv:2412.06559).

A solution is flagged at its first step whose score is below a threshold. The measure is the harmonic mean of two
accuracies, so a threshold that flags everything, or nothing, gets 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from truing_evaluate.calibration import sigmoid
from truing_evaluate.intervals import Array, Whole, resampled, share_of, sums_of
from truing_evaluate.labelled import auroc
from truing_evaluate.lengths import correlation
from truing_evaluate.shapes import Aggregated, Figure, FirstErrors, Steps

NONE = -1
"""The place of the first wrong step where there is none."""
_AGGREGATES: Mapping[str, Callable[[Array], float]] = {
    "min": np.min,
    "product": np.prod,
    "mean": np.mean,
    "last": lambda steps: float(steps[-1]),
}
_TRIED = 400
_PARTS = 10
"""a threshold that is held out is chosen without the tenth of the prompts it is used on"""


class Solution(NamedTuple):
    """A solution in steps. id: of its prompt. scores, labels: of each step;
    a label is 0 for a wrong step, 1 for a right one, what nobody says is nan."""

    id: str
    group: int
    scores: Array
    labels: Array


def steps(solutions: Sequence[Solution], unknown: int, threshold: float) -> Steps:
    """All of it. unknown: solutions that were left out; threshold: below it a step is flagged."""
    first = np.array([first_error(some.labels) for some in solutions])
    tried = thresholds(solutions)
    flagged = np.array([[flag(some.scores, value) for some in solutions] for value in tried])
    hits = (flagged == first).astype(float)
    wrong = first != NONE
    f1s = np.array([harmonic(row[wrong], row[~wrong]) for row in hits])
    best = float(tried[f1s.argmax()])
    told, right = _steps_with_labels(solutions)
    floor, rate = chance(first, np.array([len(some.scores) for some in solutions]))
    return Steps(
        solutions=len(solutions),
        unknown=unknown,
        erroneous=int(wrong.sum()),
        steps=sum(len(some.scores) for some in solutions),
        auroc=auroc(told, right) if 0 < right.sum() < len(right) else None,
        at=first_errors(solutions, first, threshold),
        best=first_errors(solutions, first, best),
        held=held(hits, first, np.array([part(some.id) for some in solutions]), groups_of(solutions)),
        floor=floor,
        rate=rate,
        aggregates=aggregates(solutions, ~wrong),
    )


def aggregates(solutions: Sequence[Solution], right: Array) -> list[Aggregated]:
    """What the usual scores of solutions are worth, and how they go with length: a product falls with every step.

    Scores of steps are log-odds, or probabilities if all are from 0 to 1. right [solution]
    """
    scores = [some.scores[~np.isnan(some.scores)] for some in solutions]
    every = np.concatenate(scores)
    if every.min() < 0 or every.max() > 1:
        scores = [sigmoid(some) for some in scores]
    counts = np.array([float(len(some)) for some in scores])
    found: list[Aggregated] = []
    for how, aggregate in _AGGREGATES.items():
        values = np.array([float(aggregate(some)) for some in scores])
        worth = auroc(values, right.astype(float))
        length = correlation(ranked(values), ranked(counts))
        found.append(Aggregated(how=how, auroc=worth if np.isfinite(worth) else None, length=length))
    return found


def ranked(values: Array) -> Array:
    """The rank of each value, equal ones the mean of theirs. values [n]"""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def first_errors(solutions: Sequence[Solution], first: Whole, threshold: float) -> FirstErrors:
    """The measure at a threshold. first [solution] place of the first wrong step, or NONE"""
    hit = np.array([flag(some.scores, threshold) for some in solutions]) == first
    groups, wrong = groups_of(solutions), first != NONE
    return FirstErrors(
        threshold=threshold,
        f1=measured(hit, wrong, groups),
        erroneous=share_of(hit[wrong].astype(float), groups[wrong]),
        correct=share_of(hit[~wrong].astype(float), groups[~wrong]),
    )


def groups_of(solutions: Sequence[Solution]) -> Whole:
    """The prompt of each solution, counted from 0 without gaps. [solution]"""
    return np.unique([some.group for some in solutions], return_inverse=True)[1]


def measured(hit: Array, wrong: Array, groups: Whole) -> Figure:
    """The measure with its interval, by a bootstrap over prompts.

    hit, wrong [solution]: whether it was judged right, and whether it has a wrong step; groups [solution]
    """
    hit = hit.astype(bool)
    parts = np.stack([hit & wrong, wrong, hit & ~wrong, ~wrong], 1).astype(float)

    def f1(sums: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            one, other = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
            return np.where(one + other > 0, 2 * one * other / (one + other), one + other)

    return resampled(sums_of(parts, groups, int(groups.max()) + 1), f1)


def first_error(labels: Array) -> int:
    """The place of the first label below a half, NONE if there is none. labels [step]"""
    return flag(labels, 0.5)


def flag(scores: Array, threshold: float) -> int:
    """The place of the first score below a threshold, NONE if there is none. scores [step]"""
    below = np.flatnonzero(scores < threshold)
    return int(below[0]) if len(below) else NONE


def thresholds(solutions: Sequence[Solution]) -> Array:
    """Every threshold that makes a difference, or as many of them, evenly taken, as are worth trying."""
    every = np.concatenate([some.scores for some in solutions])
    scores = np.unique(every[~np.isnan(every)])
    between = np.concatenate([scores, [np.nextafter(scores[-1], np.inf)]])
    if len(between) <= _TRIED:
        return between
    return between[np.linspace(0, len(between) - 1, _TRIED).astype(int)]


def held(hits: Array, first: Whole, parts: Whole, groups: Whole) -> Figure | None:
    """The measure with a threshold that was best on the prompts of other parts; None where those lack solutions with,
    or without, a wrong step. hits [threshold, solution]; first, parts, groups [solution]"""
    wrong, got = first != NONE, np.zeros(len(first))
    for each in np.unique(parts):
        there = parts != each
        if not (there & wrong).any() or not (there & ~wrong).any():
            return None
        f1s = [harmonic(row[there & wrong], row[there & ~wrong]) for row in hits]
        got[~there] = hits[int(np.argmax(f1s))][~there]
    return measured(got, wrong, groups)


def part(name: str) -> int:
    """Which part of the prompts one belongs to: a matter of its id alone."""
    return blake2b(name.encode(), digest_size=1).digest()[0] % _PARTS


def harmonic(wrong: Array, right: Array) -> float:
    """Harmonic mean of two accuracies; 0 where one of them has nothing to measure. wrong, right [solution]"""
    if not len(wrong) or not len(right):
        return 0.0
    one, other = float(wrong.mean()), float(right.mean())
    return 2 * one * other / (one + other) if one + other else 0.0


def chance(first: Whole, counts: Whole) -> tuple[float, float]:
    """What flagging each step by chance gets in the mean, at the rate that is best, and that rate.

    At a rate p the first wrong step, at place e, is found with (1 - p)^e p, and a correct solution of T steps is let
    through with (1 - p)^T. first, counts [solution]
    """
    wrong = first != NONE
    if not wrong.any() or wrong.all():
        return 0.0, 0.0
    rates = np.linspace(0.001, 0.999, 999)
    found = ((1 - rates[:, None]) ** first[wrong] * rates[:, None]).mean(1)
    passed = ((1 - rates[:, None]) ** counts[~wrong]).mean(1)
    f1s = 2 * found * passed / np.maximum(found + passed, 1e-300)
    return float(f1s.max()), float(rates[f1s.argmax()])


def _steps_with_labels(solutions: Sequence[Solution]) -> tuple[Array, Array]:
    scores = np.concatenate([some.scores for some in solutions])
    labels = np.concatenate([some.labels for some in solutions])
    told = ~np.isnan(labels) & ~np.isnan(scores)
    return scores[told], (labels[told] >= 0.5).astype(float)

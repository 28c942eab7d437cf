"""Scores of completions that are right or wrong, as an outcome reward model gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from truing_evaluate.bestof import best_of, kl_bound
from truing_evaluate.intervals import Array, Whole, draws, mean_of
from truing_evaluate.shapes import Best, Figure, Labelled


def labelled(scores: Sequence[Array], labels: Sequence[Array]) -> Labelled:
    """All of it. scores, labels: for each prompt, [completion]; a label is 0 or 1."""
    groups = np.repeat(np.arange(len(scores)), [len(some) for some in scores])
    flat, right = np.concatenate(scores), np.concatenate(labels)
    mixed = [at for at, some in enumerate(labels) if 0 < some.sum() < len(some)]
    return Labelled(
        completions=len(flat),
        right=int(right.sum()),
        prompts=len(scores),
        mixed=len(mixed),
        auroc=_auroc_with_interval(flat, right, groups, len(scores)),
        precision=precision(flat, right),
        within=mean_of(np.array([auroc(scores[at], labels[at]) for at in mixed])) if mixed else None,
        best=list(bests(scores, labels, powers(min(len(some) for some in scores)))),
    )


def bests(scores: Sequence[Array], truth: Sequence[Array], ns: Iterable[int]) -> Iterable[Best]:
    """The best of each n, over the prompts that have as many completions. scores, truth: for each prompt."""
    for n in ns:
        enough = [at for at, some in enumerate(scores) if len(some) >= n]
        got = np.array([best_of(scores[at], truth[at], n) for at in enough])
        most = np.mean([best_of(truth[at], truth[at], n) for at in enough])
        yield Best(n=n, prompts=len(enough), truth=mean_of(got), oracle=float(most), kl=kl_bound(n))


def powers(most: int) -> list[int]:
    """1, 2, 4, 8 ... and the largest there is."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def auroc(scores: Array, labels: Array, counts: Array | None = None) -> float:
    """The probability that a right completion scores higher than a wrong one, ties half; nan without both.

    scores, labels [completion]; counts [completion]: how often each is there, once when not given.
    """
    counts = np.ones_like(scores) if counts is None else counts
    _, place = np.unique(scores, return_inverse=True)
    right = np.bincount(place, weights=labels * counts)
    wrong = np.bincount(place, weights=(1 - labels) * counts)
    pairs = right.sum() * wrong.sum()
    below = np.cumsum(wrong) - wrong / 2
    return float((right * below).sum() / pairs) if pairs else float("nan")


def precision(scores: Array, labels: Array) -> float:
    """Average precision: over the right completions, the mean share of right ones among those that score no less; nan
    without one. scores, labels [completion]"""
    _, place = np.unique(-scores, return_inverse=True)
    right = np.bincount(place, weights=labels)
    some = np.bincount(place)
    return float((right * np.cumsum(right) / np.cumsum(some)).sum() / right.sum()) if right.any() else float("nan")


def _auroc_with_interval(scores: Array, labels: Array, groups: Whole, prompts: int) -> Figure:
    value = auroc(scores, labels)
    drawn = np.array([auroc(scores, labels, row[groups]) for counts in draws(prompts) for row in counts])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    return Figure(value=value, low=float(low), high=float(high))

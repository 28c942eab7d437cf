"""What the best of n completions is worth, from N of them, for every n at once.

Of all subsets of n completions the one with the largest score is chosen, and its truth is averaged over the subsets. No
subset is drawn: a completion at place i, counted from the smallest score, is the best of C(i-1, n-1) of them, so

    R(n) = sum over i of C(i-1, n-1) / C(N, n) * truth_(i)        (arXiv:2310.02743)

This has no bias, where drawing with replacement from the N has one. Completions of equal score share their places.
"""

from __future__ import annotations

import math

import numpy as np

from truing_evaluate.intervals import Array


def best_of(scores: Array, truth: Array, n: int) -> float:
    """The expected truth of the best-scored of n completions out of N. scores, truth [completion]

    Raises ValueError for n outside 1 to N.
    """
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    worth = np.bincount(place, weights=truth) / sizes
    up_to = np.concatenate([[0.0], share_below(len(scores), n)[np.cumsum(sizes) - 1]])
    return float((np.diff(up_to) * worth).sum())


def share_below(count: int, n: int) -> Array:
    """Of all subsets of n out of `count` things, the share that has none beyond place i: C(i, n) / C(count, n), for
    i = 1 .. count. In logarithms, since C(12600, 100) is no float. Raises ValueError for n outside 1 to count."""
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} out of {count}")
    # C(i, n) / C(i + 1, n) = (i + 1 - n) / (i + 1), from i = count - 1 down to n.
    i = np.arange(count - 1, n - 1, -1, dtype=float)
    down = np.concatenate([[0.0], np.cumsum(np.log1p(-n / (i + 1)))])
    return np.concatenate([np.zeros(n - 1), np.exp(down[::-1])])


def kl_bound(n: int) -> float:
    """How far, in nats, the best of n is from one draw at most: log n - (n - 1) / n (arXiv:2401.01879).

    It is reached only where no two completions are equally likely to score the same; with few different completions
    the divergence stays far below.
    """
    return math.log(n) - (n - 1) / n

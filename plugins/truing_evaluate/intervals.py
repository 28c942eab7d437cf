"""How sure a figure is, when the prompts it was measured on are taken for a sample of prompts.

Shares have Wilson's interval over prompts: several pairs of a prompt count for as many independent ones as Kish's
formula allows. Everything else is measured again on prompts drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from truing_evaluate.shapes import Figure

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

Z = NormalDist().inv_cdf(0.975)
DRAWS = 1000
_AT_ONCE = 4_000_000


def wilson(share: float, count: float) -> Figure:
    """A share of `count` independent observations with its 95 % score interval (Wilson, 1927).

    count need not be whole. Of no observations nothing is known: 0 to 1.
    """
    if not count:
        return Figure(value=float("nan"), low=0.0, high=1.0)
    middle = share + Z**2 / (2 * count)
    width = Z * float(np.sqrt(max(share * (1 - share), 0.0) / count + (Z / (2 * count)) ** 2))
    below = 1 + Z**2 / count
    # At a share of 0 or 1 one end is the share itself, and rounding must not put it beyond.
    return Figure(
        value=share,
        low=min(share, max(0.0, (middle - width) / below)),
        high=max(share, min(1.0, (middle + width) / below)),
    )


def effective(groups: Whole) -> float:
    """As how many independent observations those of some prompts count at least: (sum of m)^2 / sum of m^2, where m is
    how many a prompt has (Kish, 1965). groups [n]: the prompt of each. With one for each prompt: their number."""
    if not len(groups):
        return 0.0
    sizes = np.unique(groups, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def share_of(right: Array, groups: Whole) -> Figure:
    """The mean of what is between 0 and 1, with Wilson's interval over prompts. right, groups [n]"""
    return wilson(float(right.mean()) if len(right) else 0.0, effective(groups))


def resampled(sums: Array, figure: Callable[[Array], Array]) -> Figure:
    """A figure that follows from sums over prompts, with its percentile bootstrap interval of 95 %.

    sums [prompt, k]; figure: from sums over all prompts [draw, k] to [draw]. A draw in which the figure is not
    defined is left out.
    """
    value = float(figure(sums.sum(0, keepdims=True))[0])
    drawn = np.concatenate([figure(counts @ sums) for counts in draws(len(sums))])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    return Figure(value=value, low=float(low), high=float(high))


def mean_of(values: Array) -> Figure:
    """The mean over prompts with its bootstrap interval. values [prompt]"""
    pairs = np.stack([values, np.ones(len(values))], 1)
    return resampled(pairs, ratio)


def ratio(sums: Array) -> Array:
    """The first sum over the second. sums [draw, 2]"""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / sums[:, 1]


def draws(prompts: int) -> Iterator[Array]:
    """How often each prompt is drawn, [draw, prompt], in portions that fit into memory; the same in every call."""
    random = np.random.default_rng(0)
    portion = max(1, min(DRAWS, _AT_ONCE // prompts))
    for start in range(0, DRAWS, portion):
        size = min(portion, DRAWS - start)
        yield random.multinomial(prompts, np.full(prompts, 1 / prompts), size=size).astype(float)


def sums_of(values: Array, groups: Whole, prompts: int) -> Array:
    """Sums over prompts, [prompt, k], of values [n, k]; groups [n]."""
    found = np.zeros((prompts, values.shape[1]))
    np.add.at(found, groups, values)
    return found

"""How long completions are: lognormal, cut at the most tokens that one may have."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_NORMAL = NormalDist()
_UNKNOWN = 0.5
"""spread where nothing was cut, so that a run tells nothing of its tail"""


class Lengths(NamedTuple):
    """middle, spread: mean and deviation of the logarithm, before anything is cut. most: tokens of the longest."""

    middle: float
    spread: float
    most: int

    @classmethod
    def fitted(cls, mean: float, cut: float, most: int, spread: float | None = None) -> Lengths:
        """Lengths of which a share `cut` is as long as may be, and whose mean is `mean` [token]. spread: known
        beforehand; the share then follows from it."""
        if mean >= most * 0.999 or cut >= 0.999:
            return cls(math.log(max(mean, 1.0)), 0.0, most)
        if spread is not None or cut <= 0:
            spread = _UNKNOWN if spread is None else spread
            low, high = 0.0, math.log(most) + 40 * spread
            return cls(_root(lambda middle: cls(middle, spread, most).mean() - mean, low, high), spread, most)
        # With the share that is cut fixed, a wider spread moves all others down.
        beyond = _NORMAL.inv_cdf(1 - cut)
        found = _root(lambda s: mean - cls(math.log(most) - beyond * s, s, most).mean(), 1e-4, 8.0)
        return cls(math.log(most) - beyond * found, found, most)

    def mean(self) -> float:
        """The mean of what is cut [token]."""
        if not self.spread:
            return min(math.exp(self.middle), self.most)
        edge = (math.log(self.most) - self.middle) / self.spread
        below = math.exp(self.middle + self.spread**2 / 2) * _NORMAL.cdf(edge - self.spread)
        return below + self.most * (1 - _NORMAL.cdf(edge))

    def draw(self, seeds: list[int], samples: int) -> NDArray[np.int64]:
        """Lengths [group, sample] that depend on the seeds of the groups alone."""
        normal: Any = np.stack([np.random.default_rng(seed).standard_normal(samples) for seed in seeds])
        drawn = np.exp(self.middle + self.spread * normal)
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


def _root(of: Any, low: float, high: float) -> float:
    """Where a function that grows is 0, or the end that is nearest to it."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if of(middle) > 0 else (middle, high)
    return (low + high) / 2

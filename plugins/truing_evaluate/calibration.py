"""Whether sigmoid(margin) is a probability: likelihood, calibration error, and the temperature that would be best.

A pair has no order of its own, and with the better completion always first the label would be constant. So confidence
is folded: that of whichever completion scored higher, from a half to one.
"""

from __future__ import annotations

import numpy as np

from truing_evaluate.intervals import Array, Whole, ratio, resampled, sums_of
from truing_evaluate.shapes import Bin, Calibration

BINS = 10
_STEPS = 100
_COLD = 1e-9
"""A temperature, in units of the largest margin, at which margins are as good as certain."""


def calibration(margins: Array, targets: Array, groups: Whole, prompts: int, votes: bool) -> Calibration:
    """How well margins predict. margins [pair] in nats; targets [pair] the probability that the first is better, 1
    where people just said so; groups [pair]."""
    losses = nll(margins, targets)
    best = temperature(margins, targets)
    at = np.zeros_like(margins) if best is None else margins / (best or _COLD * float(np.abs(margins).max()))
    sure, right = folded(margins, targets)
    sure_at, right_at = folded(at, targets)
    return Calibration(
        nll=resampled(sums_of(np.stack([losses, np.ones_like(losses)], 1), groups, prompts), ratio),
        ece=error(sure, right, by_width(sure)),
        ece_mass=error(sure, right, by_mass(sure)),
        temperature=best,
        nll_at=float(nll(at, targets).mean()),
        ece_at=error(sure_at, right_at, by_width(sure_at)),
        votes=votes,
        table=reliability(sure, right),
    )


def nll(margins: Array, targets: Array) -> Array:
    """Negative log-likelihood in nats, [pair]: -q log sigmoid(d) - (1 - q) log sigmoid(-d)."""
    return targets * np.logaddexp(0, -margins) + (1 - targets) * np.logaddexp(0, margins)


def temperature(margins: Array, targets: Array) -> float | None:
    """The T that makes sigmoid(margin / T) most likely (arXiv:1706.04599, section 4.2).

    None if no T > 0 is better than a coin; 0 if the smaller the better, because every pair is right.
    """

    def slope(inverse: float) -> float:
        return float((margins * (sigmoid(inverse * margins) - targets)).mean())

    if slope(0.0) >= 0:
        return None
    if (((margins > 0) == targets) | (margins == 0)).all():
        return 0.0
    low, high = 0.0, 1 / float(np.abs(margins).max())
    while slope(high) < 0:
        low, high = high, high * 4
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def folded(margins: Array, targets: Array) -> tuple[Array, Array]:
    """How sure of the side that scored higher, from 0.5 to 1, and the probability that it is the better one; [pair]."""
    right = np.where(margins > 0, targets, np.where(margins < 0, 1 - targets, 0.5))
    return sigmoid(np.abs(margins)), right


def error(sure: Array, right: Array, bins: Whole) -> float:
    """Expected calibration error: in each bin |mean of right - mean of sure|, weighted by pairs (arXiv:1706.04599,
    eq. 3).

    sure, right, bins [pair]
    """
    gaps = np.bincount(bins, weights=right - sure)
    return float(np.abs(gaps).sum() / len(sure))


def by_width(sure: Array) -> Whole:
    """The bin of each pair, of equal width between 0.5 and 1."""
    return np.minimum(((sure - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)


def by_mass(sure: Array) -> Whole:
    """The bin of each pair, with equal numbers of pairs; equal confidences share one."""
    values, place, counts = np.unique(sure, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    return (before * min(BINS, len(values)) // len(sure)).astype(np.int64)[place]


def reliability(sure: Array, right: Array) -> list[Bin]:
    """How right the pairs of each bin of equal width are, empty bins left out."""
    bins = by_width(sure)
    found: list[Bin] = []
    for at in np.unique(bins):
        inside = bins == at
        found.append(
            Bin(
                low=round(0.5 + int(at) / (2 * BINS), 2),
                high=round(0.5 + (int(at) + 1) / (2 * BINS), 2),
                pairs=int(inside.sum()),
                confidence=float(sure[inside].mean()),
                accuracy=float(right[inside].mean()),
            )
        )
    return found


def sigmoid(values: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -values))

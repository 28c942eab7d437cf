"""How gold moves as a policy goes away from where it began: the two laws of overoptimization, fitted.

With d the square root of the KL divergence, in nats, and gold counted from where d = 0 (arXiv:2210.10760, section 3.1):

    best of n               R(d) = d (alpha - beta d)        peak at alpha / (2 beta)
    reinforcement learning  R(d) = d (alpha - beta log d)    peak at exp(alpha / beta - 1)

Both are linear in alpha and beta: a fit is a least-squares solution, a bootstrap over prompts a thousand of them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from truing_evaluate.intervals import Array
from truing_evaluate.shapes import Figure

Way = Literal["best", "learned"]


class Fitted(NamedTuple):
    """alpha, beta, the d of the peak and gold there [draw]; infinite where gold falls nowhere, since beta <= 0."""

    alpha: Array
    beta: Array
    peak: Array
    top: Array


def law(d: Array, alpha: float, beta: float, way: Way) -> Array:
    """Gold at each d, counted from d = 0."""
    return alpha * d - beta * _bent(d, way)


def fitted(d: Array, gold: Array, way: Way) -> Fitted:
    """The least-squares fit of every draw. d, gold [draw, point]; points that are no numbers are left out.

    A draw in which fewer than two points lie away from 0 tells neither of the two: its numbers are NaN.
    """
    known = np.isfinite(d) & np.isfinite(gold) & (d > 0)
    straight = np.where(known, d, 0.0)
    bent = np.where(known, _bent(straight, way), 0.0)
    y = np.where(known, gold, 0.0)
    ss, sb, bb = (straight**2).sum(1), (straight * bent).sum(1), (bent**2).sum(1)
    sy, by = (straight * y).sum(1), (bent * y).sum(1)
    determinant = ss * bb - sb**2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Two columns that are one to rounding: then the law is a line, and its bend is anything.
        determinant = np.where(determinant > 1e-12 * ss * bb, determinant, np.nan)
        alpha = (sy * bb - by * sb) / determinant
        beta = (sy * sb - by * ss) / determinant
        peak = alpha / (2 * beta) if way == "best" else np.exp(alpha / beta - 1)
        top = alpha**2 / (4 * beta) if way == "best" else beta * peak
    falls = beta > 0
    # alpha <= 0 under the first law: gold falls from the beginning.
    at = np.where(falls, np.maximum(peak, 0.0), np.inf)
    best = np.where(falls, np.where(peak > 0, top, 0.0), np.inf)
    unknown = np.isnan(beta)
    return Fitted(alpha, beta, np.where(unknown, np.nan, at), np.where(unknown, np.nan, best))


def interval(value: float, drawn: Array) -> Figure:
    """A figure with the percentile interval of its bootstrap draws [draw]; infinite ones count."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Figure(value=value, low=float("nan"), high=float("nan"))
    # Nearest ranks: between a number and infinity nothing can be interpolated.
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return Figure(value=value, low=float(low), high=float(high))


def verdict(beta: Figure, peak: Figure, farthest: float, fall: Figure) -> str:
    """What the data say of the peak. farthest: the largest d that was reached; fall: how far gold is seen to fall."""
    if not beta.low > 0:
        return "not identified: the interval of beta reaches 0, so gold need not fall anywhere"
    if peak.high <= farthest:
        return "inside the data" if fall.low > 0 else "inside the data by the law, though gold is not seen to fall"
    if peak.low > farthest:
        return "beyond the data: where gold falls is extrapolated"
    return "not sure to be inside the data: its interval reaches beyond them"


def _bent(d: Array, way: Way) -> Array:
    """What beta is the weight of."""
    if way == "best":
        return d**2
    # d log d goes to 0 with d.
    return np.where(d > 0, d * np.log(np.where(d > 0, d, 1.0)), 0.0)

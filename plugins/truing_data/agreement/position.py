"""How much it helps an answer to be shown first, in log-odds: 0 is not at all, 0.4 turns 50 % into 60 %.

Two estimates. `intercept` looks at every comparison and holds if which answer came first was drawn by lot. `swapped`
needs the same two answers shown in both orders, and then whichever is better cancels out.
"""

from __future__ import annotations

from math import log, sqrt
from typing import NamedTuple

import numpy as np

from truing_data.agreement.table import Floats


class Estimate(NamedTuple):
    """A log-odds and its standard error."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.value - 1.959964 * self.error, self.value + 1.959964 * self.error


def intercept(won: Floats, votes: Floats, difference: Floats | None = None) -> Estimate | None:
    """Log-odds that the answer shown first wins between answers that are alike in length.

    won, votes [item]: how many of an item's decided votes the first one got. difference [item]: by how much it is
    longer; without it the log-odds is that of all. log p/(1 - p) = b + w difference / spread, by maximum likelihood;
    the error counts an item once, however many votes it has (K.-Y. Liang and S. L. Zeger, 1986). None where no finite
    b exists.
    """
    spread = 0.0 if difference is None else float(difference.std())
    columns = [np.ones(len(won))]
    columns += [difference / spread] if difference is not None and spread else []
    inputs = np.stack(columns, axis=1)
    weights = np.zeros(inputs.shape[1])
    if not 0 < won.sum() < votes.sum():
        return None
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        information = (inputs * (votes * chance * (1 - chance))[:, None]).T @ inputs
        scores = inputs * (won - votes * chance)[:, None]
        if np.linalg.cond(information) > 1e10:
            return None
        move = np.linalg.solve(information, scores.sum(0))
        weights = weights + move
        if np.abs(move).max() < 1e-9:
            inverse = np.linalg.inv(information)
            covariance = inverse @ (scores.T @ scores) @ inverse
            return Estimate(float(weights[0]), sqrt(float(covariance[0, 0])))
    return None


def swapped(tables: Floats) -> Estimate | None:
    """The log-odds from answers that were shown in both orders: tables [item, order, winner].

    tables[i, 0, 0] are the votes for answer A of item i where A came first, [i, 0, 1] those for B then; [i, 1, ...]
    where B came first. With A better by s, the log-odds that A wins are s + b and s - b, so b is half their common
    difference: the estimate of N. Mantel and W. Haenszel, 1959, with the error of J. Robins, N. Breslow and
    S. Greenland, 1986. None where the votes of no item disagree with its order, or none agree with it.
    """
    total = tables.sum((1, 2))
    same = tables[:, 0, 0] * tables[:, 1, 1] / total
    cross = tables[:, 0, 1] * tables[:, 1, 0] / total
    if not (same.sum() and cross.sum()):
        return None
    along = (tables[:, 0, 0] + tables[:, 1, 1]) / total
    against = (tables[:, 0, 1] + tables[:, 1, 0]) / total
    variance = (
        (along * same).sum() / (2 * same.sum() ** 2)
        + (along * cross + against * same).sum() / (2 * same.sum() * cross.sum())
        + (against * cross).sum() / (2 * cross.sum() ** 2)
    )
    return Estimate(log(same.sum() / cross.sum()) / 2, sqrt(variance) / 2)

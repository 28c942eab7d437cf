"""What length has to do with who wins."""

from __future__ import annotations

import numpy as np

from truing_evaluate.calibration import sigmoid
from truing_evaluate.intervals import Array, Whole, Z, effective, share_of
from truing_evaluate.shapes import Figure, Lengths

_PRIOR = 1e-3
_STEPS = 50


def lengths(right: Array, margins: Array, longer: Array, groups: Whole) -> Lengths:
    """All of it. right [pair] 1, 0, or 0.5 for a tie; margins [pair]; longer [pair] characters of the better completion
    minus those of the worse; groups [pair]."""
    over, under = longer > 0, longer < 0
    halves = [share_of(right[some], groups[some]) if some.any() else None for some in (over, under)]
    both = [half.value for half in halves if half]
    intercept, slope = controlled(right, longer, groups)
    return Lengths(
        longer_wins=share_of(credit(longer), groups),
        longer=int(over.sum()),
        shorter=int(under.sum()),
        when_longer=halves[0],
        when_shorter=halves[1],
        balanced=sum(both) / 2 if len(both) == 2 else None,
        controlled=intercept,
        slope=slope,
        correlation=correlation(margins, longer),
    )


def credit(margins: Array) -> Array:
    """1 for a pair that is right, 0 for one that is wrong, a half for a tie; [pair]."""
    return (np.sign(margins) + 1) / 2


def controlled(right: Array, longer: Array, groups: Whole) -> tuple[Figure, float]:
    """The probability of being right where both completions are equally long, and the slope it was freed of.

    A logistic regression of right on tanh(longer / its standard deviation), read at 0: the length term of AlpacaEval's
    length-controlled win rate (arXiv:2404.04475). A weak normal prior of precision 0.001 keeps it finite where
    all are right; its interval is that of the intercept, widened as Wilson's is for several pairs of a prompt.
    """
    spread = float(longer.std())
    features = np.stack([np.ones_like(longer), np.tanh(longer / spread) if spread else np.zeros_like(longer)], 1)
    weights, curvature = np.zeros(2), np.eye(2)
    for _ in range(_STEPS):
        said = sigmoid(features @ weights)
        curvature = features.T @ (features * (said * (1 - said))[:, None]) + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, features.T @ (right - said) - _PRIOR * weights)
        weights = weights + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    width = Z * float(np.sqrt(np.linalg.inv(curvature)[0, 0] * len(right) / effective(groups)))
    value, low, high = sigmoid(weights[0] + np.array([0.0, -width, width]))
    return Figure(value=float(value), low=float(low), high=float(high)), float(weights[1])


def correlation(one: Array, other: Array) -> float | None:
    """Pearson's; None where one of them never changes. one, other [pair]"""
    if len(one) < 2 or not one.std() or not other.std():
        return None
    return float(np.corrcoef(one, other)[0, 1])

"""The losses on scores as their papers write them, one pair and one completion at a time, in Python's own numbers.

Nothing of the project is used here. Numbers are complex, so that a derivative is exact: f(x + ih) has the imaginary
part h f'(x) for a tiny h.
"""

from __future__ import annotations

from cmath import exp, log, sqrt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Number = complex


@dataclass(frozen=True)
class Data:
    """Scores of completions, and what is said of them. length, group, rank, label: one per completion. soft, margin:
    one per pair."""

    scores: Sequence[Number]
    length: Sequence[int]
    group: Sequence[int]
    pairs: Sequence[tuple[int, int]] = ()
    soft: Sequence[float] = ()
    margin: Sequence[float] = ()
    rank: Sequence[int] = ()
    label: Sequence[int] = ()

    def of_group(self, number: int) -> list[int]:
        return [at for at, group in enumerate(self.group) if group == number]


Loss = Callable[[Data], Number]


def gradient(loss: Loss, data: Data) -> list[float]:
    """The derivative by every score, in order."""
    step, found = 1e-30, list[float]()
    for at in range(len(data.scores)):
        pushed = list(data.scores)
        pushed[at] += 1j * step
        found.append(loss(replace(data, scores=pushed)).imag / step)
    return found


def sigmoid(x: Number) -> Number:
    return 1 / (1 + exp(-x))


def over_pairs(of: Callable[[int, Number, Number], Number], data: Data, per: str) -> Number:
    """The mean over pairs; or over the prompts that there are of the mean over the pairs of each."""
    values = [of(at, data.scores[won], data.scores[lost]) for at, (won, lost) in enumerate(data.pairs)]
    if per == "pair":
        return sum(values) / len(values)
    prompts = [data.group[w] for w, _ in data.pairs]
    shares = [value / prompts.count(prompt) for value, prompt in zip(values, prompts, strict=True)]
    return sum(shares) / len(set(data.group))


def bradley_terry(
    data: Data,
    label_smoothing: float = 0.0,
    soft: bool = False,
    margin: bool = False,
    center: float = 0.0,
    per: str = "pair",
) -> Number:
    def of(at: int, won: Number, lost: Number) -> Number:
        probability = sigmoid(won - lost - (data.margin[at] if margin else 0.0))
        believed = data.soft[at] if soft else 1.0
        right = believed * (1 - label_smoothing) + (1 - believed) * label_smoothing
        return -right * log(probability) - (1 - right) * log(1 - probability) + center * (won + lost) ** 2

    return over_pairs(of, data, per)


def rao_kupper(data: Data, nu: float = 3.0, within: float = 0.0, center: float = 0.0, per: str = "pair") -> Number:
    """With strengths p = e^r: p1 / (p1 + nu p2), p2 / (p2 + nu p1), and what is left."""

    def of(at: int, one: Number, two: Number) -> Number:
        first = exp(one) / (exp(one) + nu * exp(two))
        second = exp(two) / (exp(two) + nu * exp(one))
        return -log(_said(data.soft[at], within, first, second, 1 - first - second)) + center * (one + two) ** 2

    return over_pairs(of, data, per)


def davidson(data: Data, nu: float = 1.0, within: float = 0.0, center: float = 0.0, per: str = "pair") -> Number:
    """With strengths p = e^r: won, lost and tied are as p1 to p2 to 2 nu sqrt(p1 p2)."""

    def of(at: int, one: Number, two: Number) -> Number:
        tied = 2 * nu * sqrt(exp(one) * exp(two))
        all_three = exp(one) + exp(two) + tied
        said = _said(data.soft[at], within, exp(one), exp(two), tied)
        return -log(said / all_three) + center * (one + two) ** 2

    return over_pairs(of, data, per)


def _said(soft: float, within: float, first: Number, second: Number, tied: Number) -> Number:
    if abs(soft - 0.5) <= within:
        return tied
    return first if soft > 0.5 else second


def plackett_luce(data: Data, top: int = 0, ties: str = "uncompared", center: float = 0.0) -> Number:
    total: Number = 0
    for number in set(data.group):
        some = data.of_group(number)
        for i in some:
            if top and sum(data.rank[j] < data.rank[i] for j in some) >= top:
                continue
            left = [j for j in some if data.rank[j] > data.rank[i] or j == i]
            if ties == "breslow":
                left = [j for j in some if data.rank[j] >= data.rank[i]]
            total -= log(exp(data.scores[i]) / sum(exp(data.scores[j]) for j in left))
        total += center * (2 * sum(data.scores[i] for i in some) / len(some)) ** 2
    return total / len(set(data.group))


def outcome_bce(data: Data, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Number:
    total: Number = 0
    for score, label in zip(data.scores, data.label, strict=True):
        if label:
            total -= desirable_weight * log(sigmoid(score))
        else:
            total -= undesirable_weight * log(1 - sigmoid(score))
    return total / len(data.scores)

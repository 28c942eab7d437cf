"""The losses once more, completion by completion in plain floats, as their papers write them: slow, and on purpose not
made of the parts of the fast ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Token = dict[str, float]
Each = Callable[[Sequence[Token], int], float]
"""What a loss makes of one token of a completion."""


def averaged(completions: Sequence[Sequence[Token]], each: Each, mean: str, length: int | None = None) -> float:
    """The loss of a step: the mean that is asked for of what each token comes to."""
    sums = [[each(tokens, at) for at in range(len(tokens))] for tokens in completions]
    if mean == "token":
        return sum(sum(some) for some in sums) / sum(len(some) for some in sums)
    if mean == "sequence":
        return sum(sum(some) / len(some) for some in sums) / len(sums)
    return sum(sum(some) / (length or 1) for some in sums) / len(sums)


def bounded(ratio: float, advantage: float, low: float, high: float, dual: float | None = None) -> float:
    """The clipped objective, case by case instead of by its minimum."""
    if advantage >= 0:
        return min(ratio, high) * advantage
    gain = max(ratio, low) * advantage
    return gain if dual is None or gain > dual * advantage else dual * advantage


def weight(tokens: Sequence[Token], at: int, how: str, by: str, most: float, least: float, anchor: str) -> float:
    """How a token is weighed for who wrote it."""
    ratios = [math.exp(token[anchor]) / math.exp(token["sampled"]) for token in tokens]
    found = {
        "token": ratios[at],
        "sequence": math.prod(ratios),
        "geometric": math.prod(ratios) ** (1 / len(ratios)),
    }[how]
    if by == "truncate":
        return min(found, most)
    return found if least <= found <= most else 0.0


def k3(token: Token) -> float:
    ratio = math.exp(token["ref"]) / math.exp(token["pi"])
    return ratio - math.log(ratio) - 1


def ratio(token: Token, anchor: str = "old") -> float:
    return math.exp(token["pi"]) / math.exp(token[anchor])


def sequence_ratio(tokens: Sequence[Token]) -> float:
    """(pi(y|x) / old(y|x)) ^ (1 / |y|)"""
    return math.prod(ratio(token) for token in tokens) ** (1 / len(tokens))


def value_error(token: Token, clip: float) -> float:
    near = min(max(token["value"], token["value_old"] - clip), token["value_old"] + clip)
    return 0.5 * max((token["value"] - token["return"]) ** 2, (near - token["return"]) ** 2)


def gae(rewards: Sequence[float], values: Sequence[float], discount: float, trace: float) -> list[float]:
    """The sum over all that follows, forward and in full: sum over l of (gamma lambda)^l delta_{t+l}."""
    values = [*values, 0.0]
    deltas = [reward + discount * values[at + 1] - values[at] for at, reward in enumerate(rewards)]
    return [
        sum((discount * trace) ** (later - at) * deltas[later] for later in range(at, len(deltas)))
        for at in range(len(deltas))
    ]

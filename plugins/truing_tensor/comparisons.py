"""What losses on comparisons share, whether a reward is a model's own score or a log-ratio of a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from truing.stage import Term
from truing_tensor.segments import segment_logsumexp

TieModel = Literal["rao-kupper", "davidson"]
Per = Literal["token", "seq", "pair", "group", "step"] | float
"""What a term is a mean over."""

HALF_TIED: Mapping[TieModel, float] = {"rao-kupper": 3.0, "davidson": 1.0}
"""For each model of ties the nu under which two equal answers tie half the time."""

ROUNDING = 1e-5
"""by how much, in nats, two ways to compute the same log-probabilities may differ in fp32: a policy that is its own
reference prefers nothing"""
_LEAST_DEVIATION = 1e-3
"""so that two completions of which everybody thinks the same can be compared"""


def won_or_tied(margin: Tensor, model: TieModel, nu: float) -> tuple[Tensor, Tensor]:
    """log p(the first one won) and log p(tied), each [pair]; margin [pair] by how much more the first is worth.

    rao-kupper, a = log nu:  p(won) = sigmoid(h - a)       p(tied) = (nu^2 - 1) sigmoid(h - a) sigmoid(-h - a)
    davidson:                p(won) = e^(h/2) / z          p(tied) = 2 nu / z      z = e^(h/2) + e^(-h/2) + 2 nu

    Rao and Kupper (1967), whose theta is nu; Davidson (1970), whose nu is twice this one; both as arXiv:2409.17431 has
    them. With nu = 1 and nu = 0 nothing is ever tied, and the first is the Bradley-Terry model.
    """
    if model == "rao-kupper":
        win, lose = (torch.nn.functional.logsigmoid(side - math.log(nu)) for side in (margin, -margin))
        return win, math.log(nu**2 - 1) + win + lose
    half, tie = margin / 2, torch.full_like(margin, math.log(2 * nu))
    whole = torch.stack([half, -half, tie]).logsumexp(0)
    return half - whole, tie - whole


def plackett_luce(
    reward: Tensor,
    group: Tensor,
    rank: Tensor,
    *,
    top: int = 0,
    ties: Literal["uncompared", "breslow"] = "uncompared",
) -> Tensor:
    """-log( exp r_i / sum of exp r_j over i and all ranked below it ) of every completion i [seq]; a ranking's sum is
    minus the log of its likelihood.

    reward, group, rank [seq]; the best rank is the smallest. Plackett (1975), Luce (1959). top: only so many places are
    chosen, the order of those behind them is unknown; 0: all. ties: completions of equal rank are not compared with
    each other, or each must win against the others, too (Breslow, 1974), which draws their rewards together.
    """
    one, other = _of_one_prompt(group)
    above = rank[one] < rank[other]
    rivals = above | (one == other)
    if ties == "breslow":
        rivals |= rank[one] == rank[other]
    losses = segment_logsumexp(reward[other[rivals]], one[rivals], len(reward)) - reward
    if not top:
        return losses
    better = torch.zeros_like(rank).index_add(0, other, above.to(rank.dtype))
    return losses * (better < top)


def ranked_apart(group: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Every two completions of one prompt of which the first is ranked above the second: their places [compared]."""
    one, other = _of_one_prompt(group)
    above = rank[one] < rank[other]
    return one[above], other[above]


def correlation(name: str, x: Tensor, y: Tensor, per: Per, weight: float = 1.0) -> Mapping[str, Term]:
    """The moments of two quantities, each [any]; of the five a step reports their correlation, under this name.

    They are sums, so it is the same number however a step is cut; in float64, because two large ones are subtracted.
    per, weight: so that they become means, the count of the whole step times the weight being that of all x.
    """
    x, y = x.detach().double(), y.detach().double()
    moments = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    return {f"{name}|{moment}": Term(values.sum(), per, weight) for moment, values in moments.items()}


def mean_and_deviation(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each [seq], of NORMAL_SCORES [seq, 2]; arXiv:2312.08358, section 4."""
    return normal[:, 0], torch.nn.functional.softplus(normal[:, 1]) + _LEAST_DEVIATION


def half_right(margin: Tensor) -> Tensor:
    """1 where a margin is on the right side, 0 on the wrong one, one half where it is 0 or no more than rounding."""
    right = margin > ROUNDING
    return right.to(margin) + 0.5 * (margin.abs() <= ROUNDING).to(margin)


def _of_one_prompt(group: Tensor) -> tuple[Tensor, Tensor]:
    """Every completion with every one of its prompt, itself among them: their places [meeting]."""
    members: dict[int, list[int]] = {}
    for at, number in enumerate(group.tolist()):
        members.setdefault(number, []).append(at)
    found = [(one, other) for some in members.values() for one in some for other in some]
    places = torch.tensor(found, dtype=torch.int64, device=group.device).reshape(-1, 2)
    return places[:, 0], places[:, 1]

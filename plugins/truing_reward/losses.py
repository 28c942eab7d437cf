"""Losses on scores, each a short function over flat tensors.

SCORES [seq] is the reward of a completion; CHOSEN and REJECTED [pair] say which completions a pair compares.
In every formula r_w and r_l are the rewards of the first and the second of a pair, and d is their difference.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from truing.fields import CHOSEN, GROUP, LABEL, MARGIN, RANK, REJECTED, SCORES, SOFT, Batch
from truing.stage import LossValue, Term
from truing_reward.reports import of_labels, of_pairs, of_rankings
from truing_tensor.comparisons import HALF_TIED, TieModel, plackett_luce, won_or_tied
from truing_tensor.segments import segment_mean, segment_sum

PairOrGroup = Literal["pair", "group"]


def bradley_terry(
    batch: Batch, *, label_smoothing: float, soft: bool, margin: bool, center: float, per: PairOrGroup
) -> LossValue:
    """-t log sigmoid(d - m) - (1 - t) log sigmoid(m - d) + c (r_w + r_l)^2, mean over pairs or prompts

    Bradley-Terry, arXiv:2203.02155, eq. 1, with t = 1 and m = 0. label_smoothing e: t = 1 - e. soft: t is SOFT [pair]
    in place of 1. margin: m is MARGIN [pair], arXiv:2307.09288, eq. 2. center: c, arXiv:2312.09244, eq. 2. per group:
    each pair of a prompt weighs one over the number of its pairs, as 1 / C(K, 2) in eq. 1 of the first.
    """
    won, lost = batch[SCORES][batch[CHOSEN]], batch[SCORES][batch[REJECTED]]
    weight = pair_weights(batch, per)
    believed = batch[SOFT].to(won) if soft else torch.ones_like(won)
    target = believed * (1 - label_smoothing) + (1 - believed) * label_smoothing
    logit = won - lost - batch[MARGIN].to(won) if margin else won - lost
    losses = binary_cross_entropy_with_logits(logit, target, reduction="none")
    nll = binary_cross_entropy_with_logits(won - lost, believed, reduction="none")
    terms = {"bradley-terry": Term((weight * losses).sum(), per)}
    if center:
        terms["center"] = Term((weight * (won + lost).square()).sum(), per, center)
    return LossValue(terms, of_pairs(batch, believed, {"nll": nll}, weight, per))


def bradley_terry_ties(
    batch: Batch, *, model: TieModel, nu: float | None, tied_within: float, center: float, per: PairOrGroup
) -> LossValue:
    """-log p(what was said of the pair) + c (r_w + r_l)^2, mean over pairs or prompts

    It was tied where SOFT [pair] is 0.5, or within `tied_within` of it; above that the first won, below it the second.
    The probabilities are those of `truing_tensor.comparisons.won_or_tied` at d: Rao and Kupper (1967), Davidson (1970),
    as arXiv:2409.17431 has them. center, per: as for bradley_terry.
    """
    first, second = batch[SCORES][batch[CHOSEN]], batch[SCORES][batch[REJECTED]]
    weight = pair_weights(batch, per)
    said = batch[SOFT].to(first)
    tied = (said - 0.5).abs() <= tied_within
    won, tie = won_or_tied((first - second) * torch.where(said < 0.5, -1, 1), model, nu or HALF_TIED[model])
    losses = -torch.where(tied, tie, won)
    terms = {"bradley-terry-ties": Term((weight * losses).sum(), per)}
    if center:
        terms["center"] = Term((weight * (first + second).square()).sum(), per, center)
    verdict = said.where(~tied, 0.5)
    more = {"ties": tied.to(first), "ties/expected": tie.exp()}
    return LossValue(terms, of_pairs(batch, verdict, more, weight, per))


def plackett_luce_reward(batch: Batch, *, top: int, ties: Literal["uncompared", "breslow"], center: float) -> LossValue:
    """-sum_i log( exp r_i / sum of exp r_j over i and all ranked below it ) + c (2 mean r)^2, mean over prompts

    RANK [seq] is the place of a completion among those of its prompt, GROUP [seq]; the best is 0. Plackett (1975), Luce
    (1959); both maximum likelihoods of arXiv:2301.11270, section 4, that of whole rankings and with `top` 1 that of the
    best. ties: see `truing_tensor.comparisons.plackett_luce`. With two completions it is Bradley-Terry.
    """
    scores, group = batch[SCORES], batch[GROUP]
    losses = plackett_luce(scores, group, batch[RANK], top=top, ties=ties)
    terms = {"plackett-luce": Term(losses.sum(), "group")}
    if center:
        mean = segment_mean(scores, group, int(group.max()) + 1)
        terms["center"] = Term((2 * mean).square().sum(), "group", center)
    return LossValue(terms, of_rankings(batch))


def outcome_bce(batch: Batch, *, desirable_weight: float, undesirable_weight: float) -> LossValue:
    """-w_1 y log sigmoid(r) - w_0 (1 - y) log sigmoid(-r), mean over completions, y being LABEL [seq]

    The outcome reward model of arXiv:2211.14275. The mean is over completions, not over their weights.
    """
    scores, label = batch[SCORES], batch[LABEL].to(batch[SCORES])
    nll = binary_cross_entropy_with_logits(scores, label, reduction="none")
    weight = desirable_weight * label + undesirable_weight * (1 - label)
    return LossValue({"outcome-bce": Term((weight * nll).sum(), "seq")}, of_labels(batch, nll))


def pair_weights(batch: Batch, per: PairOrGroup) -> Tensor:
    """What each pair weighs [pair]: 1, or one over the number of pairs that its prompt has."""
    if per == "pair":
        return torch.ones_like(batch[CHOSEN], dtype=batch[SCORES].dtype)
    group = batch[GROUP][batch[CHOSEN]]
    ones = torch.ones_like(group, dtype=batch[SCORES].dtype)
    return 1 / segment_sum(ones, group, int(group.max()) + 1)[group]

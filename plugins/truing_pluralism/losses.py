"""Losses on comparisons by people who do not agree, each a short function over flat tensors.

CHOSEN and REJECTED [pair] say which completions a pair compares; t is SOFT [pair] or 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from truing.fields import CHOSEN, NORMAL_SCORES, REJECTED, SOFT, TASTES, TRAITS, Batch
from truing.stage import LossValue, Term
from truing_tensor.comparisons import half_right, mean_and_deviation


def bradley_terry_conditioned(batch: Batch, *, soft: bool, shrink: float) -> LossValue:
    """-t log sigmoid(d) - (1 - t) log sigmoid(-d) + c |e|^2, mean over pairs, with d = sum of a_k (z_wk - z_lk)

    z: TRAITS [seq, trait]; a: TASTES [pair, trait] of who compared, 1 for the first and e for the others. shrink: c.
    """
    traits, tastes = batch[TRAITS], batch[TASTES]
    apart = traits[batch[CHOSEN]] - traits[batch[REJECTED]]
    target = believed(batch, soft, apart)
    difference = (tastes * apart).sum(1)
    nll = binary_cross_entropy_with_logits(difference, target, reduction="none")
    terms = {"bradley-terry": Term(nll.sum(), "pair")}
    if shrink:
        terms["shrink"] = Term(tastes[:, 1:].square().sum(), "pair", shrink)
    shared = binary_cross_entropy_with_logits(apart[:, 0], target, reduction="none")
    return LossValue(terms, reported(difference, target, {"nll": nll, "nll/shared": shared}))


def bradley_terry_normal(batch: Batch, *, soft: bool) -> LossValue:
    """-t log Phi(z) - (1 - t) log Phi(-z), mean over pairs, with z = (m_w - m_l) / sqrt(v_w + v_l)

    m and v, the mean and the variance of a completion's reward over people, are of NORMAL_SCORES [seq, 2];
    arXiv:2312.08358, section 4.
    """
    mean, deviation = mean_and_deviation(batch[NORMAL_SCORES])
    first, second = batch[CHOSEN], batch[REJECTED]
    apart = mean[first] - mean[second]
    z = apart / (deviation[first].square() + deviation[second].square()).sqrt()
    target = believed(batch, soft, z)
    nll = -target * torch.special.log_ndtr(z) - (1 - target) * torch.special.log_ndtr(-z)
    metrics = {
        **reported(z, target, {"nll": nll}),
        "deviation": Term(deviation.detach().sum(), "seq"),
        **_explained(mean, deviation),
    }
    return LossValue({"bradley-terry-normal": Term(nll.sum(), "pair")}, metrics)


def believed(batch: Batch, soft: bool, like: Tensor) -> Tensor:
    """The probability [pair] that the chosen one is better."""
    return batch[SOFT].to(like) if soft else like.new_ones(len(batch[CHOSEN]))


def reported(margin: Tensor, target: Tensor, more: Mapping[str, Tensor]) -> dict[str, Term]:
    """Accuracy and margin, of which completion is held to be better, and further numbers; all [pair]."""
    margin = margin.detach() * torch.where(target < 0.5, -1, 1)
    found = {"accuracy": half_right(margin).where(target != 0.5, 0.5), "margin": margin, **more}
    return {name: Term(values.detach().sum(), "pair") for name, values in found.items()}


def _explained(mean: Tensor, deviation: Tensor) -> dict[str, Term]:
    """The moments from which a step makes Var[m] / (Var[m] + E[v]) = 1 - E[v] / (Var[m] + E[v]): of a reward that is
    m plus an error of variance v, the share of its variance that m explains."""
    m, v = mean.detach().double(), deviation.detach().double().square()
    moments = {"t": m, "tt": m * m + v, "e": torch.zeros_like(v), "ee": v}
    return {f"explained|{name}": Term(values.sum(), "seq") for name, values in moments.items()}

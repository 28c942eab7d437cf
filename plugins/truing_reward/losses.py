"""Losses on scores, each a short function over flat tensors."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from truing.fields import CHOSEN, MARGIN, REJECTED, SCORES, Batch
from truing.stage import LossValue, Term


def bradley_terry(batch: Batch, *, label_smoothing: float, margin: bool, center: float) -> LossValue:
    """-(1 - e) log sigmoid(d - m) - e log sigmoid(m - d) + c (r_w + r_l)^2, mean over pairs, with d = r_w - r_l.

    Bradley-Terry, arXiv:2203.02155, eq. 1; the margin m is that of arXiv:2307.09288, eq. 2; the centering term that of
    arXiv:2312.09244, eq. 2. SCORES [seq]; CHOSEN, REJECTED and MARGIN [pair].
    """
    better, worse = batch[SCORES][batch[CHOSEN]], batch[SCORES][batch[REJECTED]]
    difference = better - worse
    won = difference - batch[MARGIN] if margin else difference
    total = -((1 - label_smoothing) * logsigmoid(won) + label_smoothing * logsigmoid(-won)).sum()
    terms = {"bradley-terry": Term(total, "pair")}
    if center:
        terms["center"] = Term((better + worse).square().sum(), "pair", center)
    right = (difference > 0).float() + 0.5 * (difference == 0).float()
    metrics = {
        "accuracy": Term(right.sum(), "pair"),
        "margin": Term(difference.sum(), "pair"),
        "reward/chosen": Term(better.sum(), "pair"),
        "reward/rejected": Term(worse.sum(), "pair"),
    }
    return LossValue(terms, metrics)

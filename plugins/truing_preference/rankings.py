"""Losses on rankings of two or more completions of one prompt.

RANK [seq] is the place of a completion among those of its group, the best is 0; GROUP [seq] says which prompt it
belongs to; LOGPROBS and LOGPROBS_REF [token] are in nats; SEQ [token] says which completion a token belongs to.
"""

from __future__ import annotations

import torch

from truing.fields import GROUP, RANK, Batch
from truing.stage import LossValue, Term
from truing_preference.sides import Side, completions
from truing_tensor import comparisons
from truing_tensor.comparisons import correlation, half_right
from truing_tensor.segments import segment_mean


def plackett_luce(batch: Batch, *, beta: float) -> LossValue:
    """-sum_i log( exp r_i / (exp r_i + sum over j ranked below i of exp r_j) ), mean over groups, where r = beta rho

    DPO under the Plackett-Luce model, arXiv:2305.18290, appendix A.3; with two completions it is DPO.
    Completions of equal rank are not compared with each other, so one best and K - 1 tied is the likelihood of the best
    alone.
    """
    whole = completions(batch)
    reward, group, rank = beta * whole.ratio, batch[GROUP], batch[RANK]
    below = (group[:, None] == group) & (rank[:, None] < rank)  # [seq, seq]: the second is ranked below the first
    losses = comparisons.plackett_luce(reward, group, rank)
    return LossValue({"plackett-luce": Term(losses.sum(), "group")}, _report(whole, reward, group, below))


def _report(whole: Side, reward: torch.Tensor, group: torch.Tensor, below: torch.Tensor) -> dict[str, Term]:
    """What is reported, under the names that pairs have: chosen is the best of a group, rejected the worst.

    accuracy and margin are means over the pairs of a group that are not tied, then over groups.
    """
    count = int(group.max()) + 1
    first, second = below.nonzero(as_tuple=True)
    gap = reward[first] - reward[second]
    best, worst = ~below.any(0), ~below.any(1)
    found = {
        "accuracy": segment_mean(half_right(gap), group[first], count),
        "margin": segment_mean(gap, group[first], count),
        "length/difference": _of(whole.length, best, group, count) - _of(whole.length, worst, group, count),
    }
    if whole.kl is not None:
        found["kl"] = segment_mean(whole.kl, group, count)
    for name, which in (("chosen", best), ("rejected", worst)):
        found[f"reward/{name}"] = _of(reward, which, group, count)
        found[f"logprob/{name}"] = _of(whole.logprob, which, group, count)
    moments = correlation("length/correlation", reward, whole.length, "seq")
    return {**{name: Term(values.sum(), "group") for name, values in found.items()}, **moments}


def _of(values: torch.Tensor, which: torch.Tensor, group: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over some completions of each group [group]."""
    return segment_mean(values[which], group[which], count)

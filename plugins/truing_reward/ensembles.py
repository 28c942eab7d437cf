"""Several reward models in place of one: what they say put together, and how the heads of one trunk are made to differ.

MEMBER_SCORES [seq, member] is what each member says of a completion.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from truing.errors import RunFailed
from truing.fields import CHOSEN, GROUP, IDS, MARGIN, MEMBER_SCORES, REJECTED, SCORES, SCORES_STD, SOFT, Batch
from truing.run import Run
from truing.stage import LossValue, Term
from truing_reward import menu_ensembles
from truing_reward.reports import of_pairs
from truing_tensor.comparisons import half_right
from truing_tensor.members import asked

Objective = Literal["mean", "wco", "uwo", "lcb"]

_POISSON = list(accumulate(math.exp(-1) / math.factorial(count) for count in range(16)))
"""How likely a Poisson variable of mean 1 is to be at most 0, 1, 2..."""


class Ensemble:
    """Asks every member, and puts together what they say."""

    def __init__(self, spec: menu_ensembles.Ensemble, run: Run) -> None:
        self._spec = spec
        self._members = [member.build(run) for member in spec.members]

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES and SCORES_STD [seq] and MEMBER_SCORES [seq, member]. Raises what a member raises."""
        said = await asked(self._members, batch)
        if said.shape[1] < 2:
            raise RunFailed("an ensemble of one model: its members give one number a completion, all together")
        spec = self._spec
        scores, deviation = combined(said, spec.objective, spec.penalty, spec.ddof)
        return batch.put_all({SCORES: scores, SCORES_STD: deviation, MEMBER_SCORES: said})


def combined(scores: Tensor, objective: Objective, penalty: float | None, ddof: int) -> tuple[Tensor, Tensor]:
    """One score [seq] of those of the members [seq, member], and their standard deviation [seq].

    arXiv:2310.02743, section 3: mean, the least of them (wco), or the mean minus `penalty` times the variance (uwo);
    lcb: minus `penalty` times the standard deviation. ddof: variance is over the number of members minus it. The order
    of the members is of no matter, to the last bit.
    """
    ordered = scores.double().sort(1).values
    mean, variance = ordered.mean(1), ordered.var(1, correction=ddof)
    found = {
        "mean": lambda: mean,
        "wco": lambda: ordered[:, 0],
        "uwo": lambda: mean - _given(penalty) * variance,
        "lcb": lambda: mean - _given(penalty) * variance.sqrt(),
    }[objective]()
    return found.to(scores.dtype), variance.sqrt().to(scores.dtype)


def bradley_terry_ensemble(
    batch: Batch, *, bootstrap: bool, seed: int, label_smoothing: float, soft: bool, margin: bool
) -> LossValue:
    """-w (t log sigmoid(d - m) + (1 - t) log sigmoid(m - d)), mean over pairs and members

    Bradley-Terry for each member, d being the difference of its scores of CHOSEN and REJECTED [pair]; t and m as for
    `bradley_terry`. bootstrap: w is how often the sample of a member has the prompt of the pair; its mean is 1, so the
    mean is over pairs and not over weights.
    """
    scores = batch[MEMBER_SCORES]
    difference = scores[batch[CHOSEN]] - scores[batch[REJECTED]]
    mean = difference.mean(1)
    believed = batch[SOFT].to(mean) if soft else torch.ones_like(mean)
    target = believed * (1 - label_smoothing) + (1 - believed) * label_smoothing
    logit = difference - batch[MARGIN].to(mean)[:, None] if margin else difference
    losses = binary_cross_entropy_with_logits(logit, target[:, None].expand_as(logit), reduction="none")
    if bootstrap:
        counts = bootstrap_counts(batch[IDS], scores.shape[1], seed).to(losses)
        losses = counts[batch[GROUP][batch[CHOSEN]]] * losses
    right = half_right(difference.detach() * torch.where(believed < 0.5, -1, 1)[:, None]).mean(1)
    more = {
        "nll": binary_cross_entropy_with_logits(mean, believed, reduction="none"),
        "members/accuracy": right.where(believed != 0.5, 0.5),
        "members/deviation": difference.detach().std(1, correction=0),
    }
    whole = batch.put(SCORES, scores.mean(1))
    terms = {"bradley-terry": Term(losses.mean(1).sum(), "pair")}
    return LossValue(terms, of_pairs(whole, believed, more, torch.ones_like(mean), "pair"))


def bootstrap_counts(names: Sequence[str], members: int, seed: int) -> Tensor:
    """How often each member's sample has each group [group, member]: Poisson of mean 1, from a hash of seed, group and
    member alone, so that it is the same in every epoch, however a step is cut."""
    return torch.tensor([[_count(f"{seed}\x1f{member}\x1f{name}") for member in range(members)] for name in names])


def _count(what: str) -> int:
    """A Poisson variable of mean 1 by the inverse of its distribution, at a hash."""
    number = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "big")
    return bisect_right(_POISSON, number / 2**64)


def _given(penalty: float | None) -> float:
    """A penalty that the menu made sure of; 0 is one."""
    assert penalty is not None
    return penalty

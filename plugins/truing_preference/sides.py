"""What a batch says of its completions and of both sides of its pairs, and what every loss reports of them.

Log-probabilities are in nats. A loss without a reference sees one that is 0, so its log-ratios are log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.errors import RunFailed
from truing.fields import CHOSEN, LABEL, LOGPROBS, LOGPROBS_REF, MARGIN, RANK, REJECTED, SEQ, SOFT, Batch
from truing.stage import LossValue, Term
from truing_tensor.comparisons import correlation, half_right
from truing_tensor.segments import segment_sum


@dataclass(frozen=True)
class Side:
    """Some completions: all of a batch [seq], or those on one side of its pairs [pair].

    logprob, reference: of the whole completion, under the policy and under the reference. length: its tokens.
    kl: half the sum of the squared log-ratios of its tokens, None without a reference. Near the reference that is the
    KL divergence to second order, whichever of the two wrote the completion.
    """

    logprob: Tensor
    reference: Tensor
    length: Tensor
    kl: Tensor | None

    @property
    def ratio(self) -> Tensor:
        """log pi(y|x) / ref(y|x)"""
        return self.logprob - self.reference

    @property
    def average(self) -> Tensor:
        """Log-probability per token."""
        return self.logprob / self.length

    @property
    def ratio_average(self) -> Tensor:
        """Log-ratio per token."""
        return self.ratio / self.length

    def at(self, which: Tensor) -> Side:
        """These of them. which: positions, or a mask"""
        return Side(
            self.logprob[which],
            self.reference[which],
            self.length[which],
            None if self.kl is None else self.kl[which],
        )


Pair = tuple[Tensor, Tensor]
"""A number of the chosen and of the rejected completion, each [pair]."""


def completions(batch: Batch) -> Side:
    """Every completion of a batch [seq]. Raises RunFailed for one without tokens, which has no log-probability."""
    logprobs, seq = batch[LOGPROBS], batch[SEQ]
    named = [int(batch[at].max()) + 1 for at in (SEQ, CHOSEN, REJECTED) if at in batch]
    count = max(named + [len(batch[at]) for at in (LABEL, RANK) if at in batch])
    logprob = segment_sum(logprobs, seq, count)
    length = segment_sum(logprobs.new_ones(len(seq)), seq, count)
    if not bool(length.all()):
        raise RunFailed(f"{int((length == 0).sum())} of the {count} completions of a step have no tokens")
    if LOGPROBS_REF not in batch:
        return Side(logprob, logprob.new_zeros(count), length, None)
    reference = segment_sum(batch[LOGPROBS_REF], seq, count)
    kl = segment_sum(0.5 * (logprobs.detach() - batch[LOGPROBS_REF]).square(), seq, count)
    return Side(logprob, reference, length, kl)


def sides(batch: Batch, *, soft: bool = False) -> tuple[Side, Side]:
    """The chosen and the rejected completions [pair]. soft: the chosen one of a pair is that which is believed better,
    the second where SOFT is below one half."""
    whole, first, second = completions(batch), batch[CHOSEN], batch[REJECTED]
    if not soft:
        return whole.at(first), whole.at(second)
    turned = batch[SOFT] < 0.5
    return whole.at(second.where(turned, first)), whole.at(first.where(turned, second))


def target(batch: Batch, *, soft: bool, label_smoothing: float) -> Tensor | float:
    """Probability that the chosen one of `sides` is better: 1, or what SOFT [pair] says, one half or more; flipped with
    probability `label_smoothing`."""
    believed = torch.maximum(batch[SOFT], 1 - batch[SOFT]) if soft else 1.0
    return believed * (1 - label_smoothing) + (1 - believed) * label_smoothing


def cross_entropy(logit: Tensor, target: Tensor | float) -> Tensor:
    """-t log sigmoid(h) - (1 - t) log sigmoid(-h) [pair]"""
    return -target * logsigmoid(logit) - (1 - target) * logsigmoid(-logit)


def offset(batch: Batch, weight: float, *, soft: bool = False) -> Tensor | float:
    """A weight times MARGIN [pair], by how much the chosen one of `sides` is better; 0 without a weight."""
    if not weight:
        return 0.0
    return weight * (batch[MARGIN].where(batch[SOFT] >= 0.5, -batch[MARGIN]) if soft else batch[MARGIN])


def paired(name: str, losses: Tensor, both: tuple[Side, Side], rewards: Pair, sft_weight: float) -> LossValue:
    """The mean of `losses` [pair], and an SFT term where it has a weight.

    The SFT term is the negative log-likelihood per token of each chosen completion, a mean over pairs: a long one
    weighs no more than a short one (arXiv:2404.19733). TRL's is a mean over the tokens of all. rewards: what the
    loss holds the two completions to be worth.
    """
    terms = {name: Term(losses.sum(), "pair")}
    if sft_weight:
        terms["nll"] = Term(-both[0].average.sum(), "pair", sft_weight)
    return LossValue(terms, of_pairs(both, rewards))


def of_pairs(both: tuple[Side, Side], rewards: Pair) -> Mapping[str, Term]:
    """What is reported of pairs. Equal rewards count as half right."""
    chosen, rejected = both
    margin = rewards[0] - rewards[1]
    found = {
        "accuracy": half_right(margin),
        "margin": margin,
        "reward/chosen": rewards[0],
        "reward/rejected": rewards[1],
        "logprob/chosen": chosen.logprob,
        "logprob/rejected": rejected.logprob,
        "length/difference": chosen.length - rejected.length,
    }
    if chosen.kl is not None and rejected.kl is not None:
        found["kl"] = (chosen.kl + rejected.kl) / 2
    lengths = torch.cat([chosen.length, rejected.length])
    return {
        **{name: Term(values.sum(), "pair") for name, values in found.items()},
        **correlation("length/correlation", torch.cat(rewards), lengths, "pair", 0.5),
    }

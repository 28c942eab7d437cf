"""Losses on pairs of completions, each a short function over flat tensors.

CHOSEN and REJECTED [pair] say which completions a pair compares; LOGPROBS and LOGPROBS_REF [token] are in nats; SEQ
[token] says which completion a token belongs to.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, SEQ, Batch
from truing.stage import LossValue, Term
from truing_tensor.segments import segment_sum


def dpo(batch: Batch, *, beta: float, label_smoothing: float) -> LossValue:
    """-(1 - e) log sigmoid(h) - e log sigmoid(-h), mean over pairs, where h is the margin of implicit rewards:

        h = beta * (log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x))

    DPO, arXiv:2305.18290, eq. 7; e is the label smoothing of conservative DPO (E. Mitchell, "A note on DPO with noisy
    preferences", 2023).
    """
    chosen, rejected = batch[CHOSEN], batch[REJECTED]
    policy, reference = sequence_logprobs(batch)
    reward = beta * (policy - reference)
    margin = reward[chosen] - reward[rejected]
    total = -((1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)).sum()
    metrics = {
        "accuracy": Term(((margin > 0).float() + 0.5 * (margin == 0).float()).sum(), "pair"),
        "margin": Term(margin.sum(), "pair"),
        "reward/chosen": Term(reward[chosen].sum(), "pair"),
        "reward/rejected": Term(reward[rejected].sum(), "pair"),
        "logprob/chosen": Term(policy[chosen].sum(), "pair"),
        "logprob/rejected": Term(policy[rejected].sum(), "pair"),
    }
    return LossValue({"dpo": Term(total, "pair")}, metrics)


def sequence_logprobs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion [seq] under the policy and under the reference, in nats."""
    count = int(batch[SEQ].max()) + 1
    return segment_sum(batch[LOGPROBS], batch[SEQ], count), segment_sum(batch[LOGPROBS_REF], batch[SEQ], count)

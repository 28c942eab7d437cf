"""Losses on pairs without a reference: only LOGPROBS [token] of the policy itself, in nats.

CHOSEN and REJECTED [pair] say which completions a pair compares, SEQ [token] which completion a token belongs to; |y|
is a completion's length in tokens. A loss is the mean over pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.fields import Batch
from truing.stage import LossValue, Term
from truing_preference.sides import cross_entropy, paired, sides, target

_CERTAIN = -1e-6


def simpo(
    batch: Batch, *, beta: float, gamma: float, label_smoothing: float, soft: bool, sft_weight: float
) -> LossValue:
    """-log sigmoid(r_w - r_l - gamma), where r = beta log pi(y|x) / |y|

    SimPO, arXiv:2405.14734, eq. 6. With gamma = 0 it is length-normalised DPO without a reference. Labels may be
    smoothed or `soft` as in DPO.
    """
    both = sides(batch, soft=soft)
    rewards = beta * both[0].average, beta * both[1].average
    aim = target(batch, soft=soft, label_smoothing=label_smoothing)
    return paired("simpo", cross_entropy(rewards[0] - rewards[1] - gamma, aim), both, rewards, sft_weight)


def cpo(batch: Batch, *, beta: float, label_smoothing: float, soft: bool, sft_weight: float) -> LossValue:
    """-log sigmoid(beta log pi(y_w|x) - beta log pi(y_l|x)), and the negative log-likelihood of the chosen answer

    CPO, arXiv:2401.08417, eq. 3. The paper writes the likelihood of the whole answer; here it is per token, a mean
    over answers; TRL's is a mean over all tokens of a batch and takes in the prompt. Labels may be smoothed or `soft`
    as in DPO.
    """
    both = sides(batch, soft=soft)
    rewards = beta * both[0].logprob, beta * both[1].logprob
    aim = target(batch, soft=soft, label_smoothing=label_smoothing)
    return paired("cpo", cross_entropy(rewards[0] - rewards[1], aim), both, rewards, sft_weight)


def orpo(batch: Batch, *, odds_weight: float, sft_weight: float) -> LossValue:
    """-log sigmoid(log odds(y_w) - log odds(y_l)), and the negative log-likelihood of the chosen answer per token

    odds(y) = p / (1 - p), where log p = log pi(y|x) / |y|. ORPO, arXiv:2403.07691, eq. 4 and 7; `odds_weight` is its
    lambda. TRL's likelihood takes in the prompt as well; the paper's, and this, are of the answer. Reported rewards are
    log odds.
    """
    both = sides(batch)
    rewards = _log_odds(both[0].average), _log_odds(both[1].average)
    value = paired("orpo", -logsigmoid(rewards[0] - rewards[1]), both, rewards, sft_weight)
    return LossValue({**value.terms, "orpo": Term(value.terms["orpo"].total, "pair", odds_weight)}, value.metrics)


def slic(batch: Batch, *, delta: float, sft_weight: float) -> LossValue:
    """max(0, delta - log pi(y_w|x) + log pi(y_l|x)), and the negative log-likelihood of the chosen answer

    SLiC-HF, arXiv:2305.10425: calibration by a margin. The paper's likelihood is of a separate target; here it
    is that of the chosen answer, per token. Reported rewards are log-probabilities.
    """
    both = sides(batch)
    rewards = both[0].logprob, both[1].logprob
    return paired("slic", (delta - (rewards[0] - rewards[1])).relu(), both, rewards, sft_weight)


def _log_odds(log_p: Tensor) -> Tensor:
    """log p - log(1 - p); for an answer that is all but certain the odds stop growing."""
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=_CERTAIN)))

"""DPO that explores: the loss of pairs of which one completion is the policy's and one the reference's."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from truing.fields import CHOSEN, OPPONENT, REJECTED, Batch
from truing.stage import LossValue, Term
from truing_preference.pairs import implicit_rewards
from truing_preference.sides import paired, sides


def xpo(batch: Batch, *, beta: float, alpha: float, sft_weight: float) -> LossValue:
    """-log sigmoid(h) + alpha log pi(y'|x), where y' is the reference's completion of the pair, OPPONENT [seq] = 1

    XPO, arXiv:2405.21046, algorithm 1, line 5. h is that of `pairs`. Minimised, so the reference's completions become
    less likely than under DPO: what is taken from them goes to what neither has been seen to say. Of a pair that is
    all the policy's the second term is 0.
    """
    both = sides(batch)
    rewards = implicit_rewards(both, beta)
    value = paired("dpo", -logsigmoid(rewards[0] - rewards[1]), both, rewards, sft_weight)
    wrote = batch[OPPONENT] == 1
    known = both[0].logprob * wrote[batch[CHOSEN]] + both[1].logprob * wrote[batch[REJECTED]]
    terms = {**value.terms, "optimism": Term(known.sum(), "pair", alpha)}
    return LossValue(terms, {**value.metrics, "logprob/opponent": Term(known.sum(), "pair")})

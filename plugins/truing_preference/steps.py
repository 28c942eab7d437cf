"""Losses on pairs that compare the pairs of a step with each other, so they must see a whole step at once.

Notation as in `pairs`. What the papers keep as a moving average from step to step is the mean of the step here: a loss
is a function of its batch and nothing else, so a resumed run goes on as it would have.
"""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from truing.fields import Batch
from truing.stage import LossValue, Term
from truing_preference.pairs import implicit_rewards
from truing_preference.sides import cross_entropy, paired, sides, target

_SMALLEST_BETA = 1e-3


def aot(batch: Batch, *, beta: float, unpaired: bool, label_smoothing: float, sft_weight: float) -> LossValue:
    """-(1 - e) log sigmoid(beta d_i) - e log sigmoid(-beta d_i), mean over places i of sorted lists, e label smoothing

        paired:    d_i = sorted(log pi(y_w) - log pi(y_l))_i - sorted(log ref(y_w) - log ref(y_l))_i
        unpaired:  d_i = sorted(rho(y_w))_i - sorted(rho(y_l))_i

    AOT, arXiv:2406.05882: the distribution of margins under the policy is to dominate that under the
    reference (or the distribution of chosen rewards that of the rejected) at every quantile, not pair by pair.
    """
    chosen, rejected = both = sides(batch)
    if unpaired:
        larger, smaller = chosen.ratio, rejected.ratio
    else:
        larger, smaller = chosen.logprob - rejected.logprob, chosen.reference - rejected.reference
    gap = larger.sort().values - smaller.sort().values
    losses = cross_entropy(beta * gap, target(batch, soft=False, label_smoothing=label_smoothing))
    return paired("aot", losses, both, implicit_rewards(both, beta), sft_weight)


def beta_dpo(batch: Batch, *, beta: float, alpha: float, keep: float, sft_weight: float) -> LossValue:
    """-log sigmoid(b_i (rho(y_w) - rho(y_l))), mean over the pairs kept, where b_i = beta (1 + alpha (M_i - M_0))

    beta-DPO, arXiv:2407.08639: M_i is the pair's margin h under the given beta, a constant to the gradient,
    so a clearer pair is trusted with a larger beta. The share `keep` of pairs whose margin is nearest to M_0 is kept.

    The authors' code differs: it calibrates one beta per batch, by how far the mean margin of the pairs it kept is from
    M_0, a moving average; it draws the pairs it keeps with a normal density around M_0; and its M is in nats, without
    beta. Here nothing is remembered between steps: M_0 is the mean of the step, beta is calibrated pair by pair, the
    pairs kept are the likeliest of that draw, and M is a difference of rewards, so the authors' a is alpha times beta
    here.
    """
    both = sides(batch)
    rewards = implicit_rewards(both, beta)
    margin = (rewards[0] - rewards[1]).detach()
    distance = margin - margin.mean()
    kept = distance.abs().argsort(stable=True)[: max(1, round(keep * len(distance)))]
    own = (1 + alpha * distance).clamp(min=_SMALLEST_BETA / beta)
    losses = -logsigmoid(own * (rewards[0] - rewards[1]))[kept]
    value = paired("beta-dpo", losses, both, rewards, sft_weight)
    terms = {**value.terms, "beta-dpo": Term(losses.sum(), float(len(kept)))}
    return LossValue(terms, {**value.metrics, "beta": Term((beta * own).sum(), "pair")})

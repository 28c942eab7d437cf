"""Losses on pairs of completions that hold the policy to a reference, each a short function over flat tensors.

CHOSEN and REJECTED [pair] say which completions a pair compares; LOGPROBS and LOGPROBS_REF [token] are in nats; SEQ
[token] says which completion a token belongs to. In every formula

    rho(y) = log pi(y|x) / ref(y|x)         the log-ratio of a completion, a sum over its tokens
    h      = beta (rho(y_w) - rho(y_l))     the margin of implicit rewards of a pair

and a loss is the mean over pairs. Reported rewards are beta rho unless a loss says otherwise.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.fields import CHOSEN, COLLISION_ENTROPY, LOGPROBS, REJECTED, SEQ, SOFT, Batch
from truing.stage import LossValue, Term
from truing_preference.sides import Pair, Side, cross_entropy, offset, paired, sides, target
from truing_tensor.comparisons import HALF_TIED, TieModel, half_right, won_or_tied
from truing_tensor.segments import segment_mean

_LARGEST_EXPONENT = 30.0


def dpo(
    batch: Batch,
    *,
    beta: float,
    label_smoothing: float,
    robust: bool,
    per_token: bool,
    soft: bool,
    margin_weight: float,
    sft_weight: float,
) -> LossValue:
    """-t log sigmoid(h - m) - (1 - t) log sigmoid(-(h - m))

    DPO, arXiv:2305.18290, eq. 7, with t = 1 and m = 0.
    label_smoothing e: t = 1 - e, conservative DPO (E. Mitchell, "A note on DPO with noisy preferences", 2023).
    robust: t = (1 - e) / (1 - 2e), so that the loss is unbiased when labels are flipped with probability e
    (arXiv:2403.00409).
    per_token: rho is divided by the completion's length (Tulu 3, arXiv:2411.15124); beta is then larger, 5 there.
    soft: t is SOFT [pair] in place of 1, y_w the answer it holds to be better. margin_weight: m is so many times
    MARGIN [pair] (ODPO, arXiv:2402.10571).
    """
    both = sides(batch, soft=soft)
    rewards = implicit_rewards(both, beta, per_token)
    aim = target(batch, soft=soft, label_smoothing=0.0 if robust else label_smoothing)
    if robust:
        aim = (aim - label_smoothing) / (1 - 2 * label_smoothing)
    losses = cross_entropy(rewards[0] - rewards[1] - offset(batch, margin_weight, soft=soft), aim)
    return paired("dpo", losses, both, rewards, sft_weight)


def dpo_ties(batch: Batch, *, beta: float, model: TieModel, nu: float | None, sft_weight: float) -> LossValue:
    """-log p(what was said of the pair): won, lost (SOFT below 0.5) or tied (SOFT [pair] equal to 0.5).

    rao-kupper, a = log nu:  p(won) = sigmoid(h - a)       p(tied) = (nu^2 - 1) sigmoid(h - a) sigmoid(-h - a)
    davidson:                p(won) = e^(h/2) / z          p(tied) = 2 nu / z      z = e^(h/2) + e^(-h/2) + 2 nu

    DPO-RK and DPO-D, arXiv:2409.17431. With the paper's nu, 3 and 1, two equal answers tie half the time. Reported of a
    pair, and learned by its SFT term, is the answer that won as the chosen one; of a tie, which is half right in
    `accuracy` whatever its rewards, the first.
    """
    nu = nu or HALF_TIED[model]
    both, tied = sides(batch, soft=True), batch[SOFT] == 0.5
    rewards = implicit_rewards(both, beta)
    h = rewards[0] - rewards[1]
    won, tie = won_or_tied(h, model, nu)
    likelihood = torch.where(tied, tie, won)
    value = paired("dpo-ties", -likelihood, both, rewards, sft_weight)
    right = half_right(h).where(~tied, 0.5)
    return LossValue(value.terms, {**value.metrics, "accuracy": Term(right.sum(), "pair")})


def ipo(batch: Batch, *, beta: float, per_token: bool, soft: bool, sft_weight: float) -> LossValue:
    """(rho(y_w) - rho(y_l) - (2t - 1) / (2 beta))^2

    IPO, arXiv:2310.12036, eq. 17 with t = 1; there beta is called tau. soft: t is SOFT [pair], the expectation of the
    same loss over votes.

    Equation 17 has the log-ratio of the whole answer, and so has the default here. per_token divides it by the
    answer's length: TRL does always, having been told by the authors that the results of the paper were made so.
    """
    both = sides(batch, soft=soft)
    rewards = implicit_rewards(both, beta, per_token)
    aim = (2 * target(batch, soft=soft, label_smoothing=0.0) - 1) / (2 * beta)
    losses = ((rewards[0] - rewards[1]) / beta - aim).square()
    return paired("ipo", losses, both, rewards, sft_weight)


def hinge_norm(batch: Batch, *, beta: float, margin_weight: float, sft_weight: float) -> LossValue:
    """max(0, 1 + m - h), where m is `margin_weight` times MARGIN [pair]

    The normalised hinge loss of RSO, arXiv:2309.06657: SLiC's with a reference.
    """
    both = sides(batch)
    rewards = implicit_rewards(both, beta)
    losses = (1 + offset(batch, margin_weight) - (rewards[0] - rewards[1])).relu()
    return paired("hinge-norm", losses, both, rewards, sft_weight)


def r_dpo(batch: Batch, *, beta: float, alpha: float, sft_weight: float) -> LossValue:
    """-log sigmoid(h + alpha (|y_w| - |y_l|)), lengths in tokens

    R-DPO, arXiv:2403.19159: DPO under a reward from which alpha is taken for every token. Where the chosen
    answer is longer, its length explains part of the preference, and less is learned of it.
    """
    chosen, rejected = both = sides(batch)
    rewards = implicit_rewards(both, beta)
    losses = -logsigmoid(rewards[0] - rewards[1] + alpha * (chosen.length - rejected.length))
    return paired("r-dpo", losses, both, rewards, sft_weight)


def dpop(batch: Batch, *, beta: float, penalty: float, sft_weight: float) -> LossValue:
    """-log sigmoid(h - beta penalty max(0, -rho(y_w)))

    DPO-Positive, arXiv:2402.13228: no pair is won by making its chosen answer less likely than it was.
    """
    both = sides(batch)
    rewards = implicit_rewards(both, beta)
    fallen = (-both[0].ratio).relu()
    losses = -logsigmoid(rewards[0] - rewards[1] - beta * penalty * fallen)
    return paired("dpop", losses, both, rewards, sft_weight)


def wpo(batch: Batch, *, beta: float, sft_weight: float) -> LossValue:
    """-w(y_w) w(y_l) log sigmoid(h)

        w(y) = exp( 1/|y| sum_t log( pi(y_t) / sum_v pi(v)^2 ) )        no gradient passes through it

    WPO, arXiv:2406.11827, eq. 2, with its "sampled alignment": the expected probability of a token that the policy
    draws is sum_v pi(v)^2, so an answer of its own weighs about 1 wherever it is sure and wherever it is not. Minus the
    log of that sum is COLLISION_ENTROPY [token]. The code of the authors lets no pair weigh more than 1; the equation
    does, and so does this, as TRL.
    """
    both = sides(batch)
    rewards = implicit_rewards(both, beta)
    relative = batch[LOGPROBS].detach() + batch[COLLISION_ENTROPY].detach()
    aligned = segment_mean(relative, batch[SEQ], int(batch[SEQ].max()) + 1)
    weight = (aligned[batch[CHOSEN]] + aligned[batch[REJECTED]]).exp()
    value = paired("wpo", -weight * logsigmoid(rewards[0] - rewards[1]), both, rewards, sft_weight)
    return LossValue(value.terms, {**value.metrics, "weight": Term(weight.sum(), "pair")})


def exo(batch: Batch, *, beta: float, label_smoothing: float, soft: bool, sft_weight: float) -> LossValue:
    """sigmoid(h) log(sigmoid(h) / t) + sigmoid(-h) log(sigmoid(-h) / (1 - t))

    EXO, arXiv:2402.00856, eq. 16: the KL divergence of the policy's preference to the labels', where DPO has that of
    the labels' to the policy's. t is 1, or with `soft` SOFT [pair], flipped with probability `label_smoothing`.
    """
    both = sides(batch, soft=soft)
    rewards = implicit_rewards(both, beta)
    h = rewards[0] - rewards[1]
    aim = torch.as_tensor(target(batch, soft=soft, label_smoothing=label_smoothing), dtype=h.dtype, device=h.device)
    losses = h.sigmoid() * (logsigmoid(h) - aim.log()) + (-h).sigmoid() * (logsigmoid(-h) - (-aim).log1p())
    return paired("exo", losses, both, rewards, sft_weight)


def nca(batch: Batch, *, beta: float, sft_weight: float) -> LossValue:
    """-log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l), where r = beta rho

    NCA for two answers, one preferred, arXiv:2402.05369: each reward for itself, so the likelihood of the
    chosen answer does not fall along with the other's.
    """
    both = sides(batch)
    rewards = won, lost = implicit_rewards(both, beta)
    losses = -logsigmoid(won) - 0.5 * logsigmoid(-won) - 0.5 * logsigmoid(-lost)
    return paired("nca", losses, both, rewards, sft_weight)


def apo(batch: Batch, *, beta: float, variant: Literal["zero", "down"], sft_weight: float) -> LossValue:
    """zero: -sigmoid(r_w) + sigmoid(r_l)    down: sigmoid(r_w) - sigmoid(r_w - r_l)    where r = beta rho

    APO, arXiv:2408.06266, eq. 7 and 8. TRL adds 1, so that the loss is not negative; so does this.
    """
    both = sides(batch)
    rewards = won, lost = implicit_rewards(both, beta)
    losses = {"zero": (-won).sigmoid() + lost.sigmoid(), "down": won.sigmoid() + (lost - won).sigmoid()}
    return paired("apo", losses[variant], both, rewards, sft_weight)


def f_dpo(
    batch: Batch,
    *,
    beta: float,
    divergence: Literal["reverse-kl", "forward-kl", "js", "alpha"],
    alpha: float,
    sft_weight: float,
) -> LossValue:
    """-log sigmoid(r_w - r_l), where r = beta f'(u) and u = pi(y|x) / ref(y|x)

        reverse-kl  f'(u) = log u + 1, DPO        forward-kl  f'(u) = -1 / u
        js          f'(u) = log(2u / (1 + u))     alpha       f'(u) = (1 - u^-alpha) / alpha

    f-DPO, arXiv:2309.16240. Constants of f' cancel and are left out. TRL's coefficient is 1 - alpha.
    A power of 1/u is at most e^30: beyond that the gradient would be too large for fp32, and it is 0.
    """
    both = sides(batch)
    slopes = {
        "reverse-kl": lambda log_u: log_u,
        "forward-kl": lambda log_u: -_power(-log_u),
        "js": lambda log_u: math.log(2) + logsigmoid(log_u),
        "alpha": lambda log_u: (1 - _power(-alpha * log_u)) / alpha,
    }
    slope = slopes[divergence]
    rewards = beta * slope(both[0].ratio), beta * slope(both[1].ratio)
    return paired("f-dpo", -logsigmoid(rewards[0] - rewards[1]), both, rewards, sft_weight)


def implicit_rewards(both: tuple[Side, Side], beta: float, per_token: bool = False) -> Pair:
    """beta rho of both sides, each [pair]; per token if asked."""
    chosen, rejected = both
    if per_token:
        return beta * chosen.ratio_average, beta * rejected.ratio_average
    return beta * chosen.ratio, beta * rejected.ratio


def _power(exponent: Tensor) -> Tensor:
    return exponent.clamp(max=_LARGEST_EXPONENT).exp()

"""Losses on what the policy itself says.

Each says how much a token gains; the terms that all of them have, and what they report, are in `ratios`. In the
formulas r is the ratio pi(y_t) / old(y_t) of a token, A its advantage, and e, e' how far r may fall and rise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from truing.fields import LOGPROBS, RETURNS, VALUES, VALUES_OLD, Batch
from truing.stage import LossValue, Term
from truing_policy.ratios import Gain, Seen, policy_loss


def sft(batch: Batch) -> LossValue:
    """Mean negative log-likelihood per completion token, in nats: -1/T sum_t log pi(y_t | x, y_<t).

    The mean is over all tokens of the step, so a long demonstration weighs more than a short one.
    """
    return LossValue({"nll": Term(-batch[LOGPROBS].sum(), "token")})


@policy_loss
def grpo(seen: Seen, *, clip: float, clip_high: float | None, dual_clip: float | None) -> Gain:
    """-min(r A, clip(r, 1 - e, 1 + e') A) at every token, and beta times an estimate of the KL divergence.

    GRPO, arXiv:2402.03300, eq. 3; its estimate k3 = exp(ref - pi) - (ref - pi) - 1 on log-probabilities, eq. 4. With
    mean "sequence" the tokens of a completion are averaged first and then the completions, as there; with "token" all
    tokens of the step are one mean and e' may be larger than e (DAPO, arXiv:2503.14476, eq. 8); with "constant" it is
    Dr. GRPO's (arXiv:2503.20783). With dual_clip c, where A < 0 it is at least c A (arXiv:1912.09729).

    LOGPROBS, ENTROPY, ADVANTAGES and those of the anchor [token], in nats; SEQ [token]. Gradients reach LOGPROBS, and
    ENTROPY if it has a weight.
    """
    return Gain(*clipped(seen.ratio, seen.advantages, clip, clip_high, dual_clip))


@policy_loss
def ppo(
    seen: Seen,
    *,
    clip: float,
    clip_high: float | None,
    dual_clip: float | None,
    value: float,
    clip_value: float,
) -> Gain:
    """-min(r A, clip(r, 1 - e, 1 + e') A) + c1 1/2 max((V - R)^2, (clip(V, V_old - v, V_old + v) - R)^2) at every token

    PPO, arXiv:1707.06347, eq. 7 and 9; the value's bound v is in no equation of it, but in its authors' implementation
    and in those of RLHF since (arXiv:2403.17031). VALUES V, with gradient, VALUES_OLD V_old and RETURNS R [token], in
    units of the reward. The value's mean is the policy's own, `mean`.

    Reported: by how much values miss returns, how much of the returns' variance they explain, and how many were bound.
    """
    each, bound = clipped(seen.ratio, seen.advantages, clip, clip_high, dual_clip)
    if not value:
        return Gain(each, bound)
    values, returns = seen.batch[VALUES], seen.batch[RETURNS]
    errors, held = value_errors(values, seen.batch[VALUES_OLD], returns, clip_value)
    metrics = {
        "value/clipped": Term(held.to(errors.dtype).sum(), "token"),
        "value/mean": Term(values.detach().sum(), "token"),
        "value/return": Term(returns.sum(), "token"),
        **explained("value/explained", returns, values.detach()),
    }
    return Gain(each, bound, {"value": (errors, value)}, metrics)


@policy_loss
def gspo(seen: Seen, *, clip: float, clip_high: float | None) -> Gain:
    """-min(s A, clip(s, 1 - e, 1 + e') A) with s = exp(mean over t of log pi(y_t) / old(y_t)), one a completion

    GSPO, arXiv:2507.18071, eq. 5 and 7, as GSPO-token (its eq. 13 and 14): s_t = sg[s] pi(y_t) / sg[pi(y_t)], which
    takes advantages of tokens and has the gradient of GSPO where those of a completion are alike.
    """
    whole = seen.of_completion(seen.log_ratio.detach()).exp()
    ratio = whole * (seen.logprobs - seen.logprobs.detach()).exp()
    return Gain(*clipped(ratio, seen.advantages, clip, clip_high, None))


@policy_loss
def cispo(seen: Seen, *, most: float, least: float) -> Gain:
    """-sg[clip(r, least, most)] A log pi: no token is left out, its weight is bound.

    CISPO, arXiv:2506.13585, eq. 4 and 5. The value means nothing, its gradient does.
    """
    weight = seen.ratio.detach()
    bound = (weight > most) | (weight < least)
    return Gain(weight.clamp(least, most) * seen.advantages * seen.logprobs, bound)


@policy_loss
def reinforce(seen: Seen) -> Gain:
    """-A log pi: its gradient is the policy gradient, its value means nothing (Williams, 1992)."""
    return Gain(seen.advantages * seen.logprobs, torch.zeros_like(seen.logprobs))


def clipped(
    ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    """The clipped objective [token], and where a bound keeps it from teaching [token]."""
    low, high = 1 - clip, 1 + (clip if clip_high is None else clip_high)
    gain = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    bound = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    if dual_clip is not None:
        bad = advantages < 0
        gain = torch.where(bad, torch.maximum(gain, dual_clip * advantages), gain)
        bound |= bad & (ratio > dual_clip)
    return gain, bound


def value_errors(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of values [token], at least that of values held within `clip` of the old ones; and where
    they are held [token]."""
    plain = 0.5 * (values - returns).square()
    if not clip:
        return plain, torch.zeros_like(plain)
    held = 0.5 * (old + (values - old).clamp(-clip, clip) - returns).square()
    return torch.maximum(plain, held), held > plain


def explained(name: str, truth: Tensor, guess: Tensor) -> dict[str, Term]:
    """The moments of which a step reports 1 - Var[truth - guess] / Var[truth] under this name, each [token].

    They are means, so it is the same number however a step is cut; in float64, because two large ones are subtracted.
    """
    truth, missed = truth.double(), (truth - guess).double()
    moments = {"t": truth, "tt": truth * truth, "e": missed, "ee": missed * missed}
    return {f"{name}|{moment}": Term(values.sum(), "token") for moment, values in moments.items()}

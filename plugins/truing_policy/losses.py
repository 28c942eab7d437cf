"""Losses on what the policy itself says."""

from __future__ import annotations

from typing import Literal

import torch

from truing.fields import ADVANTAGES, LOGPROBS, LOGPROBS_OLD, LOGPROBS_REF, LOGPROBS_SAMPLED, SEQ, Batch
from truing.stage import LossValue, Term
from truing_tensor.segments import segment_mean


def sft(batch: Batch) -> LossValue:
    """Mean negative log-likelihood per completion token, in nats: -1/T sum_t log pi(y_t | x, y_<t).

    The mean is over all tokens of the step, so a long demonstration weighs more than a short one.
    """
    return LossValue({"nll": Term(-batch[LOGPROBS].sum(), "token")})


def grpo(
    batch: Batch,
    *,
    clip: float,
    clip_high: float | None,
    kl: float,
    mean: Literal["sequence", "token"],
    anchor: Literal["model", "sampling"],
) -> LossValue:
    """-min(r A, clip(r, 1 - e, 1 + e') A) + beta k3, with r = pi(y_t) / old(y_t) at every token t.

    GRPO, arXiv:2402.03300, eq. 3; k3 = exp(ref - pi) - (ref - pi) - 1 on log-probabilities, eq. 4. With mean "sequence"
    the tokens of a completion are averaged first and then the completions, as there; with "token" all tokens of the
    step are one mean (DAPO, arXiv:2503.14476, eq. 12). `clip_high` is its e' (section 3.1), e if it is None.

    LOGPROBS, ADVANTAGES and the anchor's LOGPROBS_OLD or LOGPROBS_SAMPLED [token], in nats; SEQ [token]. Gradients
    reach LOGPROBS alone.
    """
    logprobs, advantages = batch[LOGPROBS], batch[ADVANTAGES]
    old = batch[LOGPROBS_OLD if anchor == "model" else LOGPROBS_SAMPLED]
    ratio = (logprobs - old).exp()
    low, high = 1 - clip, 1 + (clip if clip_high is None else clip_high)
    gain = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    beyond = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    terms = {"policy": _over(-gain, batch, mean)}
    metrics = {
        "clipped": Term(beyond.to(gain.dtype).sum(), "token"),
        "ratio": Term(ratio.detach().sum(), "token"),
        "kl/old": Term((ratio.detach() - 1 - (logprobs.detach() - old)).sum(), "token"),
    }
    if kl:
        away = batch[LOGPROBS_REF] - logprobs
        divergence = _over(away.exp() - away - 1, batch, mean)
        terms["kl"] = divergence._replace(weight=kl)
        metrics["kl/reference"] = divergence
    return LossValue(terms, metrics)


def _over(values: torch.Tensor, batch: Batch, mean: Literal["sequence", "token"]) -> Term:
    """Values [token] as a mean over all tokens, or over completions of the mean within each."""
    if mean == "token":
        return Term(values.sum(), "token")
    seq = batch[SEQ]
    return Term(segment_mean(values, seq, int(seq.max()) + 1).sum(), "seq")

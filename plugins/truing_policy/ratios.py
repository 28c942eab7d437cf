"""What losses on a policy's own completions share: the ratio to an anchor, weights that correct for who wrote them, the
mean they are, and what they report.

    anchor    the policy that a ratio is to: that which wrote the completion, or the one before this batch
    sampled   the distribution the tokens were drawn from

A loss says how much each token gains; `policy_loss` makes the rest of it and gives it the options all of them have.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal

import torch
from torch import Tensor

from truing.fields import ADVANTAGES, ENTROPY, LOGPROBS, LOGPROBS_REF, LOGPROBS_SAMPLED, SEQ, Batch
from truing.stage import Loss, LossValue, Term
from truing_policy.menu_losses import ANCHORS, Anchor
from truing_policy.rewards import coefficient
from truing_tensor.divergence import divergence
from truing_tensor.segments import segment_mean, segment_sum


@dataclass(frozen=True)
class Seen:
    """What a loss sees of a batch. logprobs, advantages [token]; ratio [token]: of the policy to the anchor, through
    which gradients reach logprobs."""

    batch: Batch
    anchor: Tensor

    @property
    def logprobs(self) -> Tensor:
        """Of each token under the policy that learns [token], in nats."""
        return self.batch[LOGPROBS]

    @property
    def advantages(self) -> Tensor:
        """Of each token [token]."""
        return self.batch[ADVANTAGES]

    @cached_property
    def log_ratio(self) -> Tensor:
        """log pi / anchor [token]"""
        return self.logprobs - self.anchor

    @cached_property
    def ratio(self) -> Tensor:
        """pi / anchor [token]"""
        return self.log_ratio.exp()

    def of_completion(self, values: Tensor) -> Tensor:
        """The mean of values within each token's completion [token]."""
        seq = self.batch[SEQ]
        return segment_mean(values, seq, int(seq.max()) + 1)[seq]


@dataclass(frozen=True)
class Gain:
    """What a loss makes of each token.

    each [token]: what is maximised, with gradient. bound [token]: 1 where a bound stopped the ratio. terms, metrics:
    what it has beside that, each a value a token and its weight.
    """

    each: Tensor
    bound: Tensor
    terms: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict[str, tuple[Tensor, float]])
    metrics: Mapping[str, Term] = field(default_factory=dict[str, Term])


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options all policy losses share; `menu_losses.PolicyLoss` says what they mean."""

    mean: Literal["sequence", "token", "constant"]
    length: int | None
    kl: float | Literal["controlled"]
    kl_estimator: Literal["k1", "k2", "k3", "weighted-k3"]
    entropy: float
    anchor: Anchor
    correct: Literal["none", "token", "sequence", "geometric"]
    correct_by: Literal["truncate", "mask"]
    correct_most: float
    correct_least: float


def policy_loss(gain: Callable[..., Gain]) -> Loss:
    """A loss from a function `gain(seen, *, its own options)`, with the options all policy losses share."""
    own = [entry for entry in inspect.signature(gain).parameters.values() if entry.kind is entry.KEYWORD_ONLY]
    shared = list(inspect.signature(Options).parameters.values())

    @wraps(gain)
    def loss(batch: Batch, **options: Any) -> LossValue:
        given = Options(**{entry.name: options.pop(entry.name) for entry in shared})
        seen = Seen(batch, batch[ANCHORS[given.anchor]])
        return _value(seen, gain(seen, **options), given)

    first = inspect.Parameter("batch", inspect.Parameter.POSITIONAL_ONLY)
    loss.__signature__ = inspect.Signature([first, *own, *shared])  # type: ignore[attr-defined]
    return loss


def _value(seen: Seen, gain: Gain, options: Options) -> LossValue:
    """-w gain, and the terms of the KL divergence, the entropy and the loss's own."""
    batch = seen.batch
    weights, metrics = _correction(seen, options)
    terms = {"policy": over(-weights * gain.each, batch, options)}
    ratio, away = seen.ratio.detach(), seen.log_ratio.detach()
    metrics |= {
        "clipped": Term(gain.bound.to(ratio.dtype).sum(), "token"),
        "ratio": Term(ratio.sum(), "token"),
        "kl/old": Term((ratio - 1 - away).sum(), "token"),
        "entropy": Term(batch[ENTROPY].detach().sum(), "token"),
        **gain.metrics,
    }
    if options.kl:
        apart = _apart(seen, options.kl_estimator)
        terms["kl"] = over(apart, batch, options)._replace(weight=coefficient(options.kl, batch))
        metrics["kl/reference"] = over(apart.detach(), batch, options)
    if options.entropy:
        terms["entropy"] = over(-batch[ENTROPY], batch, options)._replace(weight=options.entropy)
    for name, (each, weight) in gain.terms.items():
        terms[name] = over(each, batch, options)._replace(weight=weight)
    return LossValue(terms, metrics)


def over(values: Tensor, batch: Batch, options: Options) -> Term:
    """Values [token] as the mean that was asked for."""
    if options.mean == "token":
        return Term(values.sum(), "token")
    if options.mean == "constant":
        return Term(values.sum() / (options.length or 1), "seq")
    seq = batch[SEQ]
    return Term(segment_mean(values, seq, int(seq.max()) + 1).sum(), "seq")


def _apart(seen: Seen, how: Literal["k1", "k2", "k3", "weighted-k3"]) -> Tensor:
    """The estimate [token] whose gradient holds the policy to its reference.

    weighted-k3 is the ratio times k3 (arXiv:2512.02556, section 3.1): over what the anchor writes, its mean is
    KL(pi || ref) itself, so its gradient is, too.
    """
    if how == "weighted-k3":
        return seen.ratio * divergence(seen.logprobs, seen.batch[LOGPROBS_REF], "k3")
    return divergence(seen.logprobs, seen.batch[LOGPROBS_REF], how)


def _correction(seen: Seen, options: Options) -> tuple[Tensor, dict[str, Term]]:
    """The weight of each token [token], without gradient: how much likelier it is under the anchor than it was drawn.

    With the model as it was before this batch as the anchor, truncated or not, this is decoupled PPO
    (arXiv:2505.24298). Truncated by token it is TIS, masked by token IcePop (both sides bounded), and masked by
    sequence or by the geometric mean the sequence-level MIS of "When speed kills stability" (Liu et al., 2025).
    """
    if options.correct == "none":
        return torch.ones_like(seen.anchor), {}
    seq = seen.batch[SEQ]
    away = seen.anchor - seen.batch[LOGPROBS_SAMPLED]
    if options.correct == "token":
        ratio = away.exp()
    elif options.correct == "geometric":
        ratio = seen.of_completion(away).exp()
    else:
        ratio = segment_sum(away, seq, int(seq.max()) + 1)[seq].exp()
    above, below = ratio > options.correct_most, ratio < options.correct_least
    if options.correct_by == "mask":
        cut = above | below
        weights = ratio.where(~cut, ratio.new_zeros(()))
    else:
        cut, weights = above, ratio.clamp(max=options.correct_most)
    metrics = {
        "mismatch/kl": Term((away.exp() - 1 - away).sum(), "token"),
        "mismatch/weight": Term(weights.sum(), "token"),
        "mismatch/cut": Term(cut.to(weights.dtype).sum(), "token"),
    }
    return weights, metrics

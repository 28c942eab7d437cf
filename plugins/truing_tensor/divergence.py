"""Estimates of how far a policy is from its reference, from what the policy wrote."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Estimate = Literal["k1", "k2", "k3"]


def divergence(logprobs: Tensor, reference: Tensor, how: Estimate) -> Tensor:
    """An estimate of KL(pi || ref) at each token that was drawn from pi [token], in nats.

    With x = log pi - log ref:    k1 = x    k2 = x^2 / 2    k3 = exp(-x) - 1 + x

    k1 and k3 have the divergence as their mean, k3 is never negative; k2 has it to second order near the reference
    (Schulman, 2020, "Approximating KL divergence").

    The gradient of an estimate is another matter (arXiv:2510.01555, arXiv:2512.21852). Over what pi writes, and given
    what came before a token, the mean gradient of k2 is that of KL(pi || ref); of k3 that of KL(ref || pi), which
    agrees with it near the reference; and of k1 it is 0, whatever the reference: as a loss, k1 does nothing.
    """
    away = logprobs - reference
    if how == "k1":
        return away
    return 0.5 * away.square() if how == "k2" else (-away).exp() - 1 + away

"""Losses on what the policy itself says."""

from __future__ import annotations

from truing.fields import LOGPROBS, Batch
from truing.stage import LossValue, Term


def sft(batch: Batch) -> LossValue:
    """Mean negative log-likelihood per completion token, in nats: -1/T sum_t log pi(y_t | x, y_<t).

    The mean is over all tokens of the step, so a long demonstration weighs more than a short one.
    """
    return LossValue({"nll": Term(-batch[LOGPROBS].sum(), "token")})

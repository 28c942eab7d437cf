"""The hinge loss of SLiC-HF (arXiv:2305.10425), on log-ratios to the reference."""

from __future__ import annotations

from torch import relu

from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, SEQ, Batch
from truing.stage import LossValue, Term
from truing_tensor.segments import segment_sum


def hinge(batch: Batch, *, beta: float, delta: float) -> LossValue:
    """max(0, delta - beta * (log-ratio of the chosen - log-ratio of the rejected)), mean over pairs."""
    count = int(batch[SEQ].max()) + 1
    reward = beta * segment_sum(batch[LOGPROBS] - batch[LOGPROBS_REF], batch[SEQ], count)
    margin = reward[batch[CHOSEN]] - reward[batch[REJECTED]]
    return LossValue({"hinge": Term(relu(delta - margin).sum(), "pair")}, {"margin": Term(margin.sum(), "pair")})

"""The loss itself: a function over flat tensors, no padding and no masks.

LOGPROBS [token] are the log-probabilities of completion tokens laid end to end, SEQ [token] says of which completion
each is, CHOSEN and REJECTED [pair] say which completions are compared.
"""

from __future__ import annotations

from torch import relu

from truing.fields import CHOSEN, LOGPROBS, REJECTED, SEQ, Batch
from truing.stage import LossValue, Term
from truing_tensor.segments import segment_mean


def newcomer(batch: Batch, *, margin: float) -> LossValue:
    """max(0, margin - (mean log pi(y_w|x) - mean log pi(y_l|x))), summed over pairs; truing divides by their number."""
    count = int(batch[SEQ].max()) + 1
    means = segment_mean(batch[LOGPROBS], batch[SEQ], count)
    ahead = means[batch[CHOSEN]] - means[batch[REJECTED]]
    accuracy = (ahead > 0).to(ahead.dtype).sum()
    return LossValue({"hinge": Term(relu(margin - ahead).sum(), "pair")}, {"accuracy": Term(accuracy, "pair")})

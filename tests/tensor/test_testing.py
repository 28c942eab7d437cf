"""check_loss lets sound losses through, and finds the mistakes that losses are made with."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pytest
import torch
from msgspec import Meta

from truing.fields import (
    CHOSEN,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    MARGIN,
    REJECTED,
    SEQ,
    SOFT,
    STEP_END,
    Batch,
    Field,
    Fields,
    fields,
)
from truing.stage import LossSpec, LossValue, Term
from truing_tensor.groups import count
from truing_tensor.segments import segment_sum
from truing_tensor.testing import check_loss, made_up


class Pairwise(LossSpec, frozen=True, kw_only=True):
    """The toy of this file; `how` says which mistake is made."""

    name: ClassVar[str] = "pairwise"
    how: Annotated[str, Meta(description="the mistake")] = ""

    def requires(self) -> Fields:
        return fields(LOGPROBS, LOGPROBS_REF, SEQ, CHOSEN, REJECTED)

    @classmethod
    def implementation(cls):
        return pairwise


def pairwise(batch: Batch, *, how: str) -> LossValue:
    size = int(batch[SEQ].max()) + 1
    ratio = segment_sum(batch[LOGPROBS] - batch[LOGPROBS_REF], batch[SEQ], size)
    gap = ratio[batch[CHOSEN]] - ratio[batch[REJECTED]]
    loss = torch.nn.functional.softplus(-gap)
    made = {
        "": lambda: loss.sum(),
        "mean": lambda: loss.mean(),
        "vector": lambda: loss,
        "detached": lambda: loss.detach().sum(),
        "reference": lambda: (loss.detach() * batch[LOGPROBS_REF].requires_grad_().sum()).sum(),
        "infinite": lambda: (loss / 0).sum(),
        "stopped": lambda: (loss * gap.detach()).sum(),
        "inert": lambda: (0 * loss).sum(),
        "greedy": lambda: loss.sum() + batch[MARGIN].sum(),
    }
    return LossValue({"pairwise": Term(made[how](), "pair")}, {"gap": Term(gap.sum(), "pair")})


def test_a_sound_loss_is_let_through():
    check_loss(Pairwise())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("mean", "return a sum, and let `per` say what it is a mean over"),
        ("vector", "is a sum, one number"),
        ("detached", "no gradient reaches `logprobs`"),
        ("reference", "its gradient does not pass through `logprobs`"),
        ("infinite", "is inf on a plain batch"),
        ("stopped", "by finite differences"),
        ("inert", "its gradient is 0 everywhere"),
    ],
)
def test_a_mistake_is_found(how, told):
    with pytest.raises(AssertionError) as refused:
        check_loss(Pairwise(how=how))
    assert told in str(refused.value)


def test_a_loss_is_handed_only_what_it_declared():
    with pytest.raises(KeyError, match="margin"):
        check_loss(Pairwise(how="greedy"))


def test_a_loss_that_means_to_may_stop_gradients_or_compare_groups():
    check_loss(Pairwise(how="stopped"), differences=False)
    check_loss(Pairwise(how="mean"), additive=False)


def test_a_made_up_batch_has_every_field_in_double_precision():
    scores: Field[torch.Tensor] = Field("my_scores", "step", "float32")
    flags: Field[torch.Tensor] = Field("my_flags", "seq", "int64")
    words: Field[list[str]] = Field("my_words", "group")
    batch = made_up(fields(LOGPROBS, SOFT, MARGIN, STEP_END, scores, flags, words))
    assert batch[LOGPROBS].dtype == batch[scores].dtype == torch.float64
    assert bool((batch[LOGPROBS] < 0).all())
    assert bool(((batch[SOFT] > 0) & (batch[SOFT] < 1)).all())
    assert (len(batch[scores]), len(batch[flags]), len(batch[words])) == (6, 6, len(batch[IDS]))
    assert len(batch[LOGPROBS]) == count(batch, "token") == int(batch[STEP_END][-1]) + 1


def test_a_made_up_batch_is_the_same_every_time():
    first, second = (made_up(fields(LOGPROBS))[LOGPROBS] for _ in range(2))
    assert torch.equal(first, second)

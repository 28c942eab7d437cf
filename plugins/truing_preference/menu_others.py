"""The menu of losses on labelled completions and on rankings."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import (
    CHOSEN,
    GROUP,
    LABEL,
    LOGPROBS,
    LOGPROBS_REF,
    MISMATCHED,
    RANK,
    SEQ,
    Fields,
    fields,
)
from truing.stage import LossSpec
from truing_preference.menu_pairs import Beta

_PAIRS_TO_LABELS = "it learns from single labelled answers; pairs_to_labels = true makes two of every pair"


class Kto(LossSpec, frozen=True, kw_only=True):
    """Kahneman-Tversky optimization (arXiv:2402.01306, eq. 7): learns from answers that are each labelled desirable or
    undesirable, without pairs.

    Every reward is judged against how far the policy has moved from its reference, which is estimated on answers to
    other prompts: `mismatched = true` in [source] adds them. Where one kind is rarer, weigh it up until
    desirable_weight times desirable answers is 1 to 4/3 of the same for undesirable ones.
    """

    name: ClassVar[str] = "kto"
    target: ClassVar[str] = "truing_preference.unpaired:kto"
    whole_step: ClassVar[bool] = True
    refuses = {CHOSEN: f"{_PAIRS_TO_LABELS}, and mismatched = true adds answers to other prompts"}

    beta: Beta = 0.1
    desirable_weight: Annotated[float, Meta(ge=0, description="weight of desirable answers")] = 1.0
    undesirable_weight: Annotated[float, Meta(ge=0, description="weight of undesirable answers")] = 1.0

    def requires(self) -> Fields:
        """Labelled completions, some for other prompts, and the reference."""
        return fields(LOGPROBS, LOGPROBS_REF, SEQ, LABEL, MISMATCHED)


class Bco(LossSpec, frozen=True, kw_only=True):
    """Binary classifier optimization (arXiv:2404.04656): learns to tell desirable from undesirable answers by the
    implicit reward, shifted to lie between both kinds.

    The shift is that of the step, and nothing is remembered between steps. The paper's correction for liked and
    disliked answers that belong to different kinds of prompts, a classifier of prompts, is left out: have answers of
    both kinds to the same prompts where you can.
    """

    name: ClassVar[str] = "bco"
    target: ClassVar[str] = "truing_preference.unpaired:bco"
    whole_step: ClassVar[bool] = True
    refuses = {
        CHOSEN: _PAIRS_TO_LABELS,
        MISMATCHED: "it would take answers to other prompts for undesirable ones; leave `mismatched` out",
    }

    beta: Beta = 0.1

    def requires(self) -> Fields:
        """Labelled completions and the reference."""
        return fields(LOGPROBS, LOGPROBS_REF, SEQ, LABEL)


class PlackettLuce(LossSpec, frozen=True, kw_only=True):
    """DPO on rankings of two or more answers (arXiv:2305.18290, appendix A.3): the Plackett-Luce likelihood of the
    whole ranking under the implicit rewards. With two answers it is DPO; answers of equal rank are not compared.
    """

    name: ClassVar[str] = "plackett-luce"
    target: ClassVar[str] = "truing_preference.rankings:plackett_luce"
    refuses = {CHOSEN: 'it learns from rankings; a pair is learned by use = "dpo", which is the same loss for two'}

    beta: Beta = 0.1

    def requires(self) -> Fields:
        """Ranked completions and the reference."""
        return fields(LOGPROBS, LOGPROBS_REF, SEQ, GROUP, RANK)

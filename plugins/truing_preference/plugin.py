"""The menu of preference losses."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, SEQ, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec


class Dpo(LossSpec, frozen=True, kw_only=True):
    """Direct preference optimization (arXiv:2305.18290, eq. 7), with conservative labels as an option.

    The implicit reward of an answer is beta times its log-ratio to the reference; the loss is the Bradley-Terry
    likelihood of the preferences under it. Reported: accuracy and margin of implicit rewards, rewards and
    log-probabilities of both sides.
    """

    name: ClassVar[str] = "dpo"
    target: ClassVar[str] = "truing_preference.losses:dpo"

    beta: Annotated[
        float, Meta(gt=0, description="strength of the KL constraint: small moves further from the reference")
    ] = 0.1
    label_smoothing: Annotated[
        float,
        Meta(ge=0, le=0.5, description="probability that a label is flipped (conservative DPO); 0: labels are right"),
    ] = 0.0

    def requires(self) -> Fields:
        return fields(LOGPROBS, LOGPROBS_REF, SEQ, CHOSEN, REJECTED)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Preference losses."""
    return [Dpo]

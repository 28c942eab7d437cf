"""The menu of what sets the coefficient of the KL divergence from the reference while a policy learns."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import GROUP, KL_COEFFICIENT, LOGPROBS_OLD, LOGPROBS_REF, SEQ, Fields, fields
from truing.stage import ControllerSpec

_HEEDED = 'beside kl = "controlled"'


class KlController(ControllerSpec, frozen=True, kw_only=True):
    """What controllers of the divergence share. They measure it on the completions of a step, before the step is
    taken: the mean log-ratio of whole completions, in nats, right for completions that the policy writes now."""

    offers: ClassVar = {KL_COEFFICIENT: _HEEDED}

    def requires(self) -> Fields:
        """Log-probabilities under the policy and its reference."""
        return fields(LOGPROBS_OLD, LOGPROBS_REF, SEQ, GROUP)

    def provides(self) -> Fields:
        """The coefficient."""
        return fields(KL_COEFFICIENT)


class AdaptiveKl(KlController, frozen=True, kw_only=True):
    """Holds the divergence at a target: the coefficient grows by a share of itself where there is more, and shrinks
    where there is less (arXiv:1909.08593, section 2.2).

        e = clip((KL - target) / target, -clip, clip)      coefficient <- coefficient (1 + gain e)

    Elsewhere `gain` is written as completions a step over a horizon.
    """

    name: ClassVar[str] = "adaptive-kl"
    target: ClassVar[str] = "truing_policy.controllers:AdaptiveKl"

    nats: Annotated[float, Meta(gt=0, description="the divergence to hold, in nats a completion")]
    start: Annotated[float, Meta(gt=0, description="the coefficient of the first step")] = 0.1
    gain: Annotated[float, Meta(gt=0, description="how much of itself the coefficient changes by at an error of 1")] = (
        0.1
    )
    clip: Annotated[float, Meta(gt=0, le=1, description="the largest error that counts, as a share of the target")] = (
        0.2
    )


class KlBudget(KlController, frozen=True, kw_only=True):
    """Keeps the divergence within a budget, and costs nothing as long as it is: the coefficient is the Lagrange
    multiplier of KL <= budget, set by proportional and integral control (arXiv:2007.03964, algorithm 2).

        e = min((KL - allowed) / budget, 1)     I <- max(0, I + e)     coefficient = max(0, proportional e + integral I)

    With `pace` a policy may be `pace` nats away for each step it has taken, up to all of the budget. Of the paper's the
    derivative term is left out, and an error counts as a share of the budget and up to 1, so that one burst is paid off
    soon. A budget does not stop a phase: [[loop.until]] does.
    """

    name: ClassVar[str] = "kl-budget"
    target: ClassVar[str] = "truing_policy.controllers:KlBudget"

    nats: Annotated[float, Meta(gt=0, description="the budget, in nats a completion")]
    pace: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="nats of the budget that every step may spend; none: all of it is there from the first"),
    ] = None
    proportional: Annotated[
        float, Meta(ge=0, description="the coefficient for an error of 1 now, in units of the score a nat")
    ] = 0.1
    integral: Annotated[
        float, Meta(gt=0, description="what it grows by for an error of 1 that lasts a step, in the same units")
    ] = 0.02

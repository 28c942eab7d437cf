"""The menu of truing-hinge: one loss, one source, and a recipe that uses both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    PROMPTS,
    REJECTED,
    SEQ,
    Fields,
    fields,
)
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec, SourceSpec


class Hinge(LossSpec, frozen=True, kw_only=True):
    """Hinge on the margin of implicit rewards (SLiC-HF, arXiv:2305.10425, relative to the reference as in DPO)."""

    name: ClassVar[str] = "hinge"
    target: ClassVar[str] = "truing_hinge.losses:hinge"

    beta: Annotated[float, Meta(gt=0, description="strength of the KL constraint")] = 0.1
    delta: Annotated[float, Meta(gt=0, description="the margin beyond which a pair teaches nothing")] = 1.0

    def requires(self) -> Fields:
        return fields(LOGPROBS, LOGPROBS_REF, SEQ, CHOSEN, REJECTED)


class Countdown(SourceSpec, frozen=True, kw_only=True):
    """Pairs about counting down: the better answer counts down, the worse one counts up."""

    name: ClassVar[str] = "countdown"
    target: ClassVar[str] = "truing_hinge.countdown:Countdown"

    highest: Annotated[int, Meta(ge=2, le=9, description="the largest number to count down from; a pair for each")] = 9

    def provides(self) -> Fields:
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP, CHOSEN, REJECTED)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """The components this plugin brings."""
    return [Hinge, Countdown]


@hookimpl
def truing_recipes() -> list[Path]:
    """The folder of recipes this plugin ships."""
    return [Path(__file__).parent / "recipes"]

"""The menu: what a recipe can use of this plugin. Imports nothing heavy, so that `truing check` stays fast."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import CHOSEN, LOGPROBS, REJECTED, SEQ, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec


class Newcomer(LossSpec, frozen=True, kw_only=True):
    """The better answer's mean log-probability should be ahead of the worse one's by a margin."""

    name: ClassVar[str] = "newcomer"
    target: ClassVar[str] = "truing_newcomer.losses:newcomer"

    margin: Annotated[float, Meta(gt=0, description="how far ahead is far enough, in nats per token")] = 1.0

    def requires(self) -> Fields:
        return fields(LOGPROBS, SEQ, CHOSEN, REJECTED)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """The components this plugin brings."""
    return [Newcomer]

"""The menu of reward losses, and of scorers that know the answer."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import ANSWERS, COMPLETIONS, GROUP, SCORES, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, ScorerSpec
from truing_reward.menu_losses import LOSSES


class Match(ScorerSpec, frozen=True, kw_only=True):
    """1 for a completion that says what the source's own completion says, 0 for any other.

    Blanks around them are left out of the comparison. Of a longer completion the part behind `after` counts, where it
    stands for the last time.
    """

    name: ClassVar[str] = "match"
    target: ClassVar[str] = "truing_reward.scorers:Match"
    offers: ClassVar = {SCORES: "where the source has the answers"}

    after: Annotated[str, Meta(description='what the answer stands behind, "####" for example; "": all of it')] = ""
    case: Annotated[bool, Meta(description="whether capital and small letters differ")] = True
    close: Annotated[
        bool, Meta(description="how alike the two are, from 0 to 1, by the longest parts they share, instead of 0 or 1")
    ] = False

    def requires(self) -> Fields:
        return fields(ANSWERS, COMPLETIONS, GROUP)

    def provides(self) -> Fields:
        return fields(SCORES)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Reward losses and scorers."""
    return [*LOSSES, Match]

"""The menu of reward losses, and of scorers that know the answer."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import ANSWERS, CHOSEN, COMPLETIONS, GROUP, MARGIN, REJECTED, SCORES, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec, ScorerSpec


class BradleyTerry(LossSpec, frozen=True, kw_only=True):
    """The likelihood of comparisons under rewards (Bradley and Terry, 1952; arXiv:2203.02155, eq. 1).

    Reported: the share of pairs that the rewards order as people did, and by how much.
    """

    name: ClassVar[str] = "bradley-terry"
    target: ClassVar[str] = "truing_reward.losses:bradley_terry"

    label_smoothing: Annotated[
        float, Meta(ge=0, lt=0.5, description="probability that a label is flipped; 0: labels are right")
    ] = 0.0
    margin: Annotated[
        bool, Meta(description="the better answer must win by the pair's margin (arXiv:2307.09288, eq. 2)")
    ] = False
    center: Annotated[
        float,
        Meta(ge=0, description="weight of the squared sum of a pair's rewards, which keeps them around 0; 0: none"),
    ] = 0.0

    def requires(self) -> Fields:
        needs = fields(SCORES, CHOSEN, REJECTED)
        return needs | fields(MARGIN) if self.margin else needs


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
    return [BradleyTerry, Match]

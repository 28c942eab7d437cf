"""The menu of reward losses."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import CHOSEN, MARGIN, REJECTED, SCORES, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec


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


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Reward losses."""
    return [BradleyTerry]

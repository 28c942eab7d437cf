"""The menu of reward models of people who do not agree: one that knows who compared, and one that knows how far apart
they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.fields import (
    ANNOTATOR,
    GROUP,
    IDS,
    MEMBER_SCORES,
    NORMAL_SCORES,
    SCORE_PARTS,
    SCORES,
    SCORES_STD,
    STRATUM,
    TASTES,
    TRAITS,
    Field,
    Fields,
    fields,
)
from truing.stage import AnySpec, Fault
from truing_model import paths
from truing_model.menu_place import ModelScorer
from truing_model.plugin import ENCODED, RewardModel

Path = Annotated[
    str,
    Meta(description="the folder of such a model, or @PHASE for the one an earlier phase made", extra=PHASE_MODEL),
]


class ConditionedRewardModel(RewardModel, frozen=True, kw_only=True):
    """A reward that depends on who is asked: s(x) + e_u . h(x), what all share and what people care for more or less.

    The heads s and h are read off the last token of a completion; e_u is a row of a table, 0 at first, for each
    annotator or group of annotators u. Who was never met is asked for s alone. Learned by `bradley-terry-conditioned`.
    A low-rank model of people as in arXiv:2406.08469, whose rewards are inner products of a person and a completion.
    """

    name: ClassVar[str] = "conditioned-reward-model"
    target: ClassVar[str] = "truing_model.plural:ConditionedRewardModel"
    offers: ClassVar = {TRAITS: "as the model that learns", TASTES: "as the model that learns"}

    by: Annotated[
        Literal["annotator", "stratum"], Meta(description="who has a taste: each annotator, or each group of them")
    ] = "stratum"
    traits: Annotated[int, Meta(ge=1, description="how many traits people care for more or less")] = 4
    people: Annotated[int, Meta(ge=1, description="most annotators, or groups, that there may be")] = 4096

    @property
    def members(self) -> int:
        """How many numbers it has as its output."""
        return 1 + self.traits

    @property
    def who(self) -> Field[list[str]]:
        """The field that names who compared a pair."""
        return ANNOTATOR if self.by == "annotator" else STRATUM

    def requires(self) -> Fields:
        return RewardModel.requires(self) | fields(self.who)

    def provides(self) -> Fields:
        return ENCODED | fields(TRAITS, TASTES)

    def leaves(self, held_out: bool) -> Fields:
        return fields()


class RewardDistribution(RewardModel, frozen=True, kw_only=True):
    """A reward that differs from one person to the next, as a normal distribution for each completion: its mean, and
    how far people are apart (distributional preference learning, arXiv:2312.08358, section 4).

    Learned by `bradley-terry-normal` from comparisons that need not say who made them.
    """

    name: ClassVar[str] = "reward-distribution"
    target: ClassVar[str] = "truing_model.plural:RewardDistribution"
    offers: ClassVar = {NORMAL_SCORES: "as the model that learns"}

    @property
    def members(self) -> int:
        """How many numbers it has as its output."""
        return 2

    def provides(self) -> Fields:
        return ENCODED | fields(NORMAL_SCORES)

    def leaves(self, held_out: bool) -> Fields:
        return fields()


class PluralScorer(ModelScorer, frozen=True, kw_only=True):
    """What the scorers of both share."""

    path: Path

    def requires(self) -> Fields:
        return ENCODED | fields(IDS, GROUP)

    def problems(self) -> Iterable[Fault]:
        yield from paths.problems(self.path)


class ConditionedScorer(PluralScorer, frozen=True, kw_only=True):
    """What each of some people would say of a completion, and the mean over them. The scorers `max-min` and `ensemble`
    make something else of them."""

    name: ClassVar[str] = "conditioned-reward-model"
    target: ClassVar[str] = "truing_model.plural:ConditionedScorer"
    offers: ClassVar = dict.fromkeys((SCORES, MEMBER_SCORES, SCORE_PARTS), "and a conditioned reward model in `path`")

    people: Annotated[
        list[str], Meta(description="annotators, or groups, that are asked; empty: all that the model has met")
    ] = []

    def provides(self) -> Fields:
        return fields(SCORES, MEMBER_SCORES, SCORE_PARTS)


class DistributionScorer(PluralScorer, frozen=True, kw_only=True):
    """The mean reward of a completion, or a quantile of it: what all but the least pleased share of people would say at
    least."""

    name: ClassVar[str] = "reward-distribution"
    target: ClassVar[str] = "truing_model.plural:DistributionScorer"
    offers: ClassVar = dict.fromkeys((SCORES, SCORES_STD), "and a reward distribution in `path`")

    quantile: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(description="risk-averse below a half, and the paper takes 0.01; the mean when not given"),
    ] = None

    def provides(self) -> Fields:
        return fields(SCORES, SCORES_STD)


PLURAL: list[type[AnySpec]] = [ConditionedRewardModel, RewardDistribution, ConditionedScorer, DistributionScorer]

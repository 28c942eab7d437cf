"""The menu of losses on scores, by what they learn from.

pairs                   bradley-terry · bradley-terry-ties
rankings                plackett-luce-reward
labelled completions    outcome-bce
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    CHOSEN,
    GROUP,
    LABEL,
    MARGIN,
    MISMATCHED,
    RANK,
    REJECTED,
    SCORES,
    SEQ,
    SOFT,
    Fields,
    fields,
)
from truing.stage import AnySpec, Fault, LossSpec

LabelSmoothing = Annotated[
    float, Meta(ge=0, lt=0.5, description="probability that a label is flipped; 0: labels are right")
]
Soft = Annotated[
    bool, Meta(description="learn the `soft` column of the pairs, the probability that the chosen one is better")
]
Margin = Annotated[bool, Meta(description="the better answer must win by the pair's margin (arXiv:2307.09288, eq. 2)")]
Center = Annotated[
    float,
    Meta(
        ge=0,
        description="weight of the squared sum of a pair's rewards, which keeps them around 0; 0: none, and 0.01 is a "
        "start",
    ),
]
Per = Annotated[
    Literal["pair", "group"],
    Meta(
        description="what the loss is a mean over. group: every prompt weighs the same, its pairs sharing the weight, "
        "as where all pairs of a ranking are learned (arXiv:2203.02155, eq. 1)"
    ),
]


class PairReward(LossSpec, frozen=True, kw_only=True):
    """What the losses on pairs of scores share."""

    center: Center = 0.0
    per: Per = "pair"

    def requires(self) -> Fields:
        """Pairs, what is a mean over prompts their prompts, and lengths."""
        needs = fields(SCORES, CHOSEN, REJECTED, SEQ)
        return needs | fields(GROUP) if self.per == "group" else needs


class BradleyTerry(PairReward, frozen=True, kw_only=True):
    """The likelihood of comparisons under rewards (Bradley and Terry, 1952; arXiv:2203.02155, eq. 1).

    Reported, here and by all losses on pairs of scores: the share of pairs that the rewards order as people did, and
    by how much; the rewards of both sides; how rewards go with length. `nll` is that of the comparisons alone,
    whatever is added to the loss, so that it can be compared between options.
    """

    name: ClassVar[str] = "bradley-terry"
    target: ClassVar[str] = "truing_reward.losses:bradley_terry"

    label_smoothing: LabelSmoothing = 0.0
    soft: Soft = False
    margin: Margin = False

    def requires(self) -> Fields:
        """Pairs, and what the options look at beside them."""
        needs = PairReward.requires(self)
        needs |= fields(MARGIN) if self.margin else fields()
        return needs | fields(SOFT) if self.soft else needs


class BradleyTerryTies(PairReward, frozen=True, kw_only=True):
    """Bradley-Terry with a model of ties (Rao and Kupper, 1967; Davidson, 1970): a pair whose `soft` is 0.5 was judged
    equal. Above 0.5 the first answer won, below it the second; by how much is not looked at.

    A soft label of 0.5 under `bradley-terry` says that nobody knows which is better; a tie says that neither is.
    Reported: how many pairs were tied and how many the model expects, which agree where `nu` is right.
    """

    name: ClassVar[str] = "bradley-terry-ties"
    target: ClassVar[str] = "truing_reward.losses:bradley_terry_ties"

    model: Annotated[Literal["rao-kupper", "davidson"], Meta(description="how likely ties are between equals")] = (
        "rao-kupper"
    )
    nu: Annotated[
        float | None,
        Meta(
            description="how common ties are; when not given half of all pairs of equals are tied, which is 3 for "
            "rao-kupper, where it is also called theta, and 1 for davidson",
        ),
    ] = None
    tied_within: Annotated[
        float,
        Meta(ge=0, lt=0.5, description="how far from 0.5 `soft` may be for a tie, for shares of votes"),
    ] = 0.0

    def requires(self) -> Fields:
        """Pairs with a verdict."""
        return PairReward.requires(self) | fields(SOFT)

    def problems(self) -> Iterable[Fault]:
        """A model of ties in which none can occur."""
        least = 1 if self.model == "rao-kupper" else 0
        if self.nu is not None and self.nu <= least:
            yield Fault("nu", f"nu = {self.nu} leaves {self.model} no ties", f"set it above {least}")


class PlackettLuceReward(LossSpec, frozen=True, kw_only=True):
    """The likelihood of whole rankings under rewards (Plackett, 1975; Luce, 1959): the best is chosen of all, the
    second of those left, and so on. Of two answers it is Bradley-Terry.

    It needs fewer rankings than their pairs taken apart for the same rewards (arXiv:2301.11270, theorem 4.3).
    """

    name: ClassVar[str] = "plackett-luce-reward"
    target: ClassVar[str] = "truing_reward.losses:plackett_luce_reward"
    refuses = {CHOSEN: 'it learns from rankings; a pair is learned by use = "bradley-terry", the same loss for two'}

    top: Annotated[
        int,
        Meta(ge=0, description="how many places are learned, the order behind them unknown; 1: the best alone; 0: all"),
    ] = 0
    ties: Annotated[
        Literal["uncompared", "breslow"],
        Meta(
            description="answers of equal rank. uncompared: nobody said how they compare; breslow: they were judged "
            "equal, and their rewards are drawn together (Breslow, 1974)"
        ),
    ] = "uncompared"
    center: Annotated[
        float,
        Meta(
            ge=0,
            description="weight of the square of twice the mean reward of a prompt, which keeps rewards around 0; for "
            "two answers it is that of bradley-terry; 0: none",
        ),
    ] = 0.0

    def requires(self) -> Fields:
        """Ranked completions, and their lengths."""
        return fields(SCORES, GROUP, RANK, SEQ)


class OutcomeBce(LossSpec, frozen=True, kw_only=True):
    """An outcome reward model (arXiv:2211.14275): the reward is the logit that a whole answer is right.

    It is a verifier as in arXiv:2110.14168, read off the last token alone where that paper asks at every token.
    Reported: `probability`, the mean of what the model says, beside `desirable`, the share that is so; the Brier score;
    and how rewards go with labels and with length. Weights bring a rare kind up, and move what the probabilities mean.
    """

    name: ClassVar[str] = "outcome-bce"
    target: ClassVar[str] = "truing_reward.losses:outcome_bce"
    by_completion: ClassVar[bool] = True
    refuses = {
        CHOSEN: "it learns from single labelled answers; pairs_to_labels = true makes two of every pair",
        MISMATCHED: "it would take answers to other prompts for undesirable ones; leave `mismatched` out",
    }

    desirable_weight: Annotated[float, Meta(ge=0, description="weight of desirable answers")] = 1.0
    undesirable_weight: Annotated[float, Meta(ge=0, description="weight of undesirable answers")] = 1.0

    def requires(self) -> Fields:
        """Labelled completions, and their lengths."""
        return fields(SCORES, LABEL, SEQ)

    def problems(self) -> Iterable[Fault]:
        """Weights under which nothing is learned."""
        if not self.desirable_weight and not self.undesirable_weight:
            yield Fault("desirable_weight", "both weights are 0, so nothing is learned", "set one of them above 0")


LOSSES: list[type[AnySpec]] = [BradleyTerry, BradleyTerryTies, PlackettLuceReward, OutcomeBce]

"""The menu of losses on comparisons by people who do not agree.

who compared is known       bradley-terry-conditioned
who compared, not why       bradley-terry-mixture
nothing is known            bradley-terry-normal
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import (
    ANNOTATOR,
    CHOSEN,
    GROUP,
    IDS,
    MEMBER_SCORES,
    NORMAL_SCORES,
    REJECTED,
    SOFT,
    TASTES,
    TRAITS,
    Fields,
    fields,
)
from truing.stage import AnySpec, LossSpec

Soft = Annotated[
    bool, Meta(description="learn the `soft` column of the pairs, the probability that the chosen one is better")
]


class PluralLoss(LossSpec, frozen=True, kw_only=True):
    """What these losses share."""

    soft: Soft = False

    def requires(self) -> Fields:
        """Pairs, and how sure people were of them."""
        return fields(CHOSEN, REJECTED) | (fields(SOFT) if self.soft else fields())


class BradleyTerryConditioned(PluralLoss, frozen=True, kw_only=True):
    """Bradley-Terry with the reward of whoever compared, s(x) + e_u . h(x): the loss of `conditioned-reward-model`.

    Reported: the likelihood under the reward of who compared, `nll`, and under what all share, `nll/shared`.
    """

    name: ClassVar[str] = "bradley-terry-conditioned"
    target: ClassVar[str] = "truing_pluralism.losses:bradley_terry_conditioned"

    shrink: Annotated[
        float,
        Meta(
            ge=0,
            description="weight of the squared length of a taste, which keeps those near 0 of whom little is known",
        ),
    ] = 0.01

    def requires(self) -> Fields:
        """What a reward is made of, and who cares for what."""
        return PluralLoss.requires(self) | fields(TRAITS, TASTES)


class BradleyTerryMixture(PluralLoss, frozen=True, kw_only=True):
    """A mixture of Bradley-Terry models by expectation-maximisation: annotators belong to one of as many kinds as
    `reward-ensemble` has heads, nobody says to which, and each head learns from its own (arXiv:2402.08925, section 5).

    E-step: how likely an annotator is of a kind follows from all that they compared, each comparison with the
    likelihood it had when it was last learned from (incremental EM, Neal and Hinton, 1998). M-step: a step of the
    optimizer on the weighted likelihoods. At first annotators are given to kinds at random, by a hash of `seed` and
    their name, so that the heads begin to differ. What came of it is kept beside the model, in `loss.json`.

    Reported: `nll` and `accuracy` of the mixture, `share/0`, `share/1`... of the kinds, and `sure`, how likely an
    annotator's likeliest kind is. A poor start is possible, as with any EM: try several seeds, and keep the least
    `nll`.
    """

    name: ClassVar[str] = "bradley-terry-mixture"
    target: ClassVar[str] = "truing_pluralism.mixture:Mixture"
    remembers: ClassVar[bool] = True

    warmup: Annotated[
        float, Meta(ge=0, le=1, description="share of the steps in which annotators stay with the kind they were given")
    ] = 0.2
    hard: Annotated[
        bool,
        Meta(description="an annotator belongs to the likeliest kind alone, as in the paper; false: to each a little"),
    ] = False
    prior: Annotated[
        float,
        Meta(gt=0, description="annotators whom each kind is imagined to have beside its own, so that none dies out"),
    ] = 1.0
    seed: Annotated[int, Meta(description="who is given to which kind at first; independent of the run's")] = 0

    def requires(self) -> Fields:
        """Pairs, scored by each head, and who compared them."""
        return PluralLoss.requires(self) | fields(MEMBER_SCORES, ANNOTATOR, IDS, GROUP)


class BradleyTerryNormal(PluralLoss, frozen=True, kw_only=True):
    """Distributional preference learning, mean and variance (arXiv:2312.08358, section 4): the loss of
    `reward-distribution`.

    Rewards of people are normally distributed, so the first of two is preferred with probability
    Phi((m_1 - m_2) / sqrt(v_1 + v_2)). Reported: `deviation`, how far people are apart, and `explained`, the share of
    the variance of rewards that completions explain, Var[m] / (Var[m] + E[v]); the rest is who is asked.
    """

    name: ClassVar[str] = "bradley-terry-normal"
    target: ClassVar[str] = "truing_pluralism.losses:bradley_terry_normal"

    def requires(self) -> Fields:
        """Pairs of distributions."""
        return PluralLoss.requires(self) | fields(NORMAL_SCORES)


LOSSES: list[type[AnySpec]] = [BradleyTerryConditioned, BradleyTerryMixture, BradleyTerryNormal]

"""The menu of what learns from completions that are sampled and compared while it learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import (
    ADVANTAGES,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    OPPONENT,
    REJECTED,
    SCORES,
    SEQ,
    Fields,
    fields,
)
from truing.stage import AdvantageSpec, Fault, LossSpec
from truing_preference.menu_pairs import Beta, ReferenceLoss


class BestAgainstWorst(AdvantageSpec, frozen=True, kw_only=True):
    """One pair a group, its best-scored completion against its worst, so that any loss on pairs learns from what the
    model writes: online DPO (arXiv:2402.04792) with a scorer in the annotator's place.

    A group whose best is not better than its worst by more than `least`, or says the same, teaches nothing and is
    dropped. With `across` one of the two is the policy's and one the opponent's, whichever are further apart.
    """

    name: ClassVar[str] = "best-against-worst"
    target: ClassVar[str] = "truing_preference.pairing:BestAgainstWorst"
    offers: ClassVar = {CHOSEN: "behind a [scorer]", REJECTED: "behind a [scorer]"}

    least: Annotated[float, Meta(ge=0, description="by how much the best must score above the worst, at least")] = 0.0
    across: Annotated[
        bool, Meta(description="compare a completion of the policy with one of the opponent, and no others")
    ] = False

    def requires(self) -> Fields:
        """Scored completions, and who wrote them if that matters."""
        needs = fields(IDS, COMPLETIONS, SCORES, GROUP)
        return needs | fields(OPPONENT) if self.across else needs

    def provides(self) -> Fields:
        """Pairs."""
        return fields(CHOSEN, REJECTED)


class Xpo(ReferenceLoss, frozen=True, kw_only=True):
    """Exploratory preference optimization (arXiv:2405.21046, algorithm 1): DPO on pairs of the policy's completion and
    the reference's, with a bonus for leaving what the reference would say.

    Of every pair the opponent's completion is made less likely by `alpha`, whichever of the two is better. Wants
    `opponents` in [generator], there with mixture = 1, and `across` in [advantage].
    """

    name: ClassVar[str] = "xpo"
    target: ClassVar[str] = "truing_preference.xpo:xpo"

    alpha: Annotated[
        float, Meta(ge=0, description="weight of the opponent's log-probability, which is minimised; 0: DPO")
    ] = 1e-5

    def requires(self) -> Fields:
        """Pairs, the reference, and who wrote what."""
        return ReferenceLoss.requires(self) | fields(OPPONENT)


class NashAdvantage(AdvantageSpec, frozen=True, kw_only=True):
    """How often a completion of the policy beats those of the opponent, less one half, the same for each of its tokens
    (Nash-MD-PG, arXiv:2312.00886, section 7).

    The probability that one beats another is the sigmoid of the difference of their scores, as Bradley and Terry have
    it. A judge of pairs need not be consistent: with one completion of each kind a group, their scores differ by the
    logit of its answer. Only the policy's completions are left to learn from. A group without both kinds is dropped.
    """

    name: ClassVar[str] = "nash-md"
    target: ClassVar[str] = "truing_preference.nash:NashAdvantage"
    offers: ClassVar = {ADVANTAGES: "behind a [scorer]"}

    scale: Annotated[float, Meta(gt=0, description="a difference of scores is divided by it")] = 1.0
    hard: Annotated[
        bool, Meta(description="the higher score always wins, and equal ones win half the time, instead of the sigmoid")
    ] = False

    def requires(self) -> Fields:
        """Scored completions, and who wrote them."""
        return fields(IDS, SCORES, GROUP, SEQ, OPPONENT)

    def provides(self) -> Fields:
        """Advantages."""
        return fields(ADVANTAGES)

    def problems(self) -> Iterable[Fault]:
        """A scale of nothing."""
        if self.hard and self.scale != 1:
            yield Fault("scale", "with hard = true only the sign of a difference counts", "take one of them out")


class NashMd(LossSpec, frozen=True, kw_only=True):
    """Nash-MD-PG (arXiv:2312.00886, section 7): policy gradient on how often a completion beats the opponent's, held to
    the reference by beta times the KL divergence, tau in the paper.

    With `mixture` m in [generator], learning rests where the opponent is the Nash equilibrium of the preference
    regularised by beta / (1 - m), and the policy the best answer to it under beta; with m = 0, self-play, the policy is
    the equilibrium itself. The gradient is that of completions the policy writes now: keep `loop.staleness` at 0.
    """

    name: ClassVar[str] = "nash-md"
    target: ClassVar[str] = "truing_preference.nash:nash_md"
    by_completion: ClassVar[bool] = True

    beta: Beta = 0.01

    def requires(self) -> Fields:
        """Advantages and the reference."""
        return fields(LOGPROBS, LOGPROBS_REF, ADVANTAGES, SEQ)

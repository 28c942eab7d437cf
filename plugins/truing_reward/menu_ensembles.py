"""The menu of ensembles: a scorer that asks several reward models, and a loss that teaches the heads of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    CHOSEN,
    GROUP,
    IDS,
    MARGIN,
    MEMBER_SCORES,
    REJECTED,
    SCORES,
    SCORES_STD,
    SEQ,
    SOFT,
    Field,
    Fields,
    fields,
)
from truing.stage import AnySpec, Fault, LossSpec, ScorerSpec
from truing_reward.menu_losses import LabelSmoothing, Margin, Soft

_PENALISED = {
    "uwo": "the paper takes 0.1 for reinforcement learning and 0.5 for best-of-n",
    "lcb": "1 takes off one standard deviation",
}


class Ensemble(ScorerSpec, frozen=True, kw_only=True):
    """What several reward models say of a completion, put together with care where they disagree (arXiv:2310.02743).

    A policy finds what one reward model overrates; what all of them overrate is harder to find. `mean` is the mean of
    the members; `wco`, worst case, the least of them; `uwo`, uncertainty weighted, the mean minus `penalty` times their
    variance; `lcb`, a lower confidence bound, the mean minus `penalty` times their standard deviation. Members that are
    compared must score in one unit: write scale = "normalised" in each.

    Each member is a table, [[scorer.members]], and one with several heads counts as many. How far they are apart is
    handed on, and reported as `score/disagreement`.
    """

    name: ClassVar[str] = "ensemble"
    target: ClassVar[str] = "truing_reward.ensembles:Ensemble"
    offers: ClassVar[dict[Field[Any], str]] = dict.fromkeys(
        (SCORES, SCORES_STD, MEMBER_SCORES), "with reward models as its members"
    )

    members: Annotated[list[ScorerSpec], Meta(description="the scorers that are asked, as a rule reward models")]
    objective: Annotated[
        Literal["mean", "wco", "uwo", "lcb"], Meta(description="how what they say is put together")
    ] = "wco"
    penalty: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="uwo: what a unit of variance costs; lcb: how many standard deviations are taken off"),
    ] = None
    ddof: Annotated[
        int,
        Meta(ge=0, le=1, description="variance over the number of members, 0, as in the paper, or over one less, 1"),
    ] = 0
    mixed_units: Annotated[
        bool, Meta(description="compare members whatever units they score in: the widest scale decides")
    ] = False

    def requires(self) -> Fields:
        """What any member needs."""
        return fields().union(*(member.requires() for member in self.members))

    def provides(self) -> Fields:
        """Their verdict, how far they are apart, and what each said."""
        return fields(SCORES, SCORES_STD, MEMBER_SCORES)

    def problems(self) -> Iterator[Fault]:
        """No members, members that cannot be compared, a penalty that is missing or has no effect."""
        if not self.members:
            yield Fault("members", "an ensemble of no scorers", "write each as [[scorer.members]]")
        if any(isinstance(member, Ensemble) for member in self.members):
            yield Fault("members", "an ensemble in an ensemble", "name its members here")
        if self.objective in _PENALISED and self.penalty is None:
            yield Fault("objective", f'objective = "{self.objective}" needs a penalty', _PENALISED[self.objective])
        if self.objective not in _PENALISED and self.penalty is not None:
            yield Fault("penalty", f'penalty has no effect with objective = "{self.objective}"', "take it out")
        units = {member.unit() for member in self.members}
        if self.objective != "mean" and not self.mixed_units and (len(units) > 1 or "" in units):
            told = ", ".join(sorted(unit or "units of its own" for unit in units))
            mend = 'write scale = "normalised" in each member, or mixed_units = true if their units are the same'
            if units:
                yield Fault("members", f'objective = "{self.objective}" compares members that score in {told}', mend)


class BradleyTerryEnsemble(LossSpec, frozen=True, kw_only=True):
    """Bradley-Terry for each member of a reward ensemble, each on a bootstrap sample of its own.

    How often a member learns from a prompt, not at all, once, twice, is drawn from a Poisson distribution of mean 1,
    which is what drawing with replacement comes to when data stream by (Oza and Russell, 2001; heads on one trunk:
    arXiv:1602.04621). Reported as for `bradley-terry`, of the mean of the members; how far they are apart on the
    difference of a pair; and their own accuracy.
    """

    name: ClassVar[str] = "bradley-terry-ensemble"
    target: ClassVar[str] = "truing_reward.ensembles:bradley_terry_ensemble"

    bootstrap: Annotated[
        bool, Meta(description="each member learns from its own sample; false: all from everything")
    ] = True
    seed: Annotated[int, Meta(description="seed of the samples; independent of the run's")] = 0
    label_smoothing: LabelSmoothing = 0.0
    soft: Soft = False
    margin: Margin = False

    def requires(self) -> Fields:
        """Pairs, scored by each member, and what the options look at beside them."""
        needs = fields(MEMBER_SCORES, CHOSEN, REJECTED, SEQ)
        needs |= fields(IDS, GROUP) if self.bootstrap else fields()
        needs |= fields(MARGIN) if self.margin else fields()
        return needs | fields(SOFT) if self.soft else needs


ENSEMBLES: list[type[AnySpec]] = [Ensemble, BradleyTerryEnsemble]

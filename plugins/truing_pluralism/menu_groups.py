"""The menu of what is just to groups of people: a loss that looks after the group it serves worst, and a scorer that
pleases the one that is pleased least."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import CHOSEN, GROUP, IDS, MEMBER_SCORES, REJECTED, SCORES, STRATUM, Fields, fields
from truing.run import Run
from truing.stage import AnySpec, DeclaredLoss, Fault, Loss, LossSpec, ScorerSpec


class GroupDro(LossSpec, frozen=True, kw_only=True):
    """Any loss on pairs, made robust to which group of people they come from (arXiv:1911.08731, algorithm 1; with
    `dpo` inside it is arXiv:2405.20304): the sum of q_g L_g, L_g being the loss on the pairs of a group.

    The weights q are learned against it by exponentiated gradient, q_g becoming q_g exp(rate L_g) at every step, and
    are kept in checkpoints. The adjustment of the paper for small groups is not here: hold the model back by other
    means, for the worst group is often the smallest, and fitted by heart.

    The loss is written as `[loss.loss] use = "bradley-terry"`. Reported is what it reports, and of each group
    `loss/NAME`, `accuracy/NAME` where it has one, and its `weight/NAME`; `worst/loss` and `worst/accuracy`.
    """

    name: ClassVar[str] = "group-dro"
    target: ClassVar[str] = "truing_pluralism.dro:GroupDro"
    whole_step: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    loss: Annotated[LossSpec, Meta(description="what is minimised for each group")]
    rate: Annotated[float, Meta(ge=0, description="step size of the weights; 0: all groups weigh the same")] = 0.01

    def requires(self) -> Fields:
        """What the loss needs, and who compared."""
        return self.loss.requires() | fields(STRATUM, CHOSEN, REJECTED, GROUP, IDS)

    def problems(self) -> Iterator[Fault]:
        """A loss that is none on pairs, or remembers what it saw of all groups."""
        if CHOSEN not in self.loss.requires():
            yield Fault("loss", f'"{self.loss.name}" learns from no pairs', "name a loss on pairs")
        if self.loss.remembers:
            yield Fault("loss", f'"{self.loss.name}" remembers what it saw, of all groups together', "name another")

    def build(self, run: Run) -> Loss:
        """Around the loss as it is built."""
        robust = self.implementation()(loss=self.loss.build(run), rate=self.rate)
        return DeclaredLoss(robust, self.requires(), self.whole_step, memory=robust)


class MaxMin(ScorerSpec, frozen=True, kw_only=True):
    """The score of the group that is pleased least (MaxMin-RLHF, arXiv:2402.08925, algorithm 2).

    Each member is a table, [[scorer.members]], the reward of a group; one with several heads, the kinds of a mixture or
    the people of a conditioned model, counts as many. Members must score in one unit, which heads of one model do;
    write scale = "normalised" in several models.
    """

    name: ClassVar[str] = "max-min"
    target: ClassVar[str] = "truing_pluralism.maxmin:MaxMin"
    offers: ClassVar = dict.fromkeys((SCORES, MEMBER_SCORES), "with the rewards of groups as its members")

    members: Annotated[list[ScorerSpec], Meta(min_length=1, description="the scorers that are asked")]
    over: Annotated[
        Literal["batch", "completion"],
        Meta(
            description="batch: all that is scored together counts for the group whose mean is least, as in the paper; "
            "completion: for each the group that likes it least"
        ),
    ] = "batch"
    mixed_units: Annotated[bool, Meta(description="compare members whatever units they score in")] = False

    def requires(self) -> Fields:
        """What any member needs."""
        return fields().union(*(member.requires() for member in self.members))

    def provides(self) -> Fields:
        """The score that counts, and what each said."""
        return fields(SCORES, MEMBER_SCORES)

    def problems(self) -> Iterator[Fault]:
        """Members that cannot be compared."""
        units = {member.unit() for member in self.members}
        if len(self.members) > 1 and not self.mixed_units and (len(units) > 1 or "" in units):
            mend = 'write scale = "normalised" in each, or mixed_units = true if their units are the same'
            yield Fault("members", "it compares members that score in units of their own", mend)


GROUPS: list[type[AnySpec]] = [GroupDro, MaxMin]

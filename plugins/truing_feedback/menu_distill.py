"""The menu of learning from a stronger model: a loss, and who writes what is learned from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    OPPONENT,
    SEQ,
    TEACHER_DIVERGENCE,
    TOKENS,
    VERSION,
    Fields,
    fields,
)
from truing.stage import Fault, GeneratorSpec, LossSpec


class Distill(LossSpec, frozen=True, kw_only=True):
    """How far a student is from its teacher at the tokens of a completion: on-policy distillation where it wrote that
    itself (GKD, arXiv:2306.13649), supervised distillation where it came with the data.

    Which divergence it is, the `beta` of the model "student" says. No gradient passes through what was sampled, as in
    the paper.
    """

    name: ClassVar[str] = "distill"
    target: ClassVar[str] = "truing_feedback.distill:distill"
    by_completion: ClassVar[bool] = True

    mean: Annotated[
        Literal["sequence", "token"],
        Meta(
            description="sequence: over the tokens of a completion, then over completions, as in the paper; token: "
            "over all tokens of the step alike"
        ),
    ] = "sequence"

    def requires(self) -> Fields:
        """What a student says of a completion."""
        return fields(TEACHER_DIVERGENCE, SEQ)


class OwnOrGiven(GeneratorSpec, frozen=True, kw_only=True):
    """Completions of the model's own for a share of the prompts, and for the others the ones they came with (GKD,
    arXiv:2306.13649, algorithm 1).

    Which is which is drawn for each prompt. One that was given is told as an opponent's, so what is reported of samples
    is of the model's own. Where a look asks for a number of samples or a temperature of its own, all are the model's.

    Written as `[generator.generator] use = "engine"`.
    """

    name: ClassVar[str] = "own-or-given"
    target: ClassVar[str] = "truing_feedback.distill:OwnOrGiven"

    generator: Annotated[GeneratorSpec, Meta(description="who writes the model's own")]
    own: Annotated[float, Meta(ge=0, le=1, description="share of prompts that are answered: the paper's lambda")] = 0.5

    def requires(self) -> Fields:
        """What whoever writes needs, and the completions that prompts came with."""
        return self.generator.requires() | fields(IDS, ANSWERS)

    def provides(self) -> Fields:
        """Completions. How likely the model would have written those that were given is not known."""
        return fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH, VERSION, OPPONENT)

    def problems(self) -> Iterator[Fault]:
        """A share that is all, and a generator whose completions have more to them."""
        yield from self.generator.one_turn("generator")
        if self.own == 1:
            yield Fault("own", "everything is the model's own", f'write use = "{self.generator.name}" without this')
        if OPPONENT in self.generator.provides():
            yield Fault("generator", "it has opponents of its own", "take `opponents` out there")

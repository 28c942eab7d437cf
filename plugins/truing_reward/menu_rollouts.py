"""The menu entry of solutions whose steps are judged by trying to finish them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import SCORES, STEP_END, STEP_INDEX, STEP_LABELS, STEP_SEQ, STEPS, Field, Fields, fields
from truing.stage import Fault, GeneratorSpec, ScorerSpec

if TYPE_CHECKING:
    from torch import Tensor

STEP_ROLLOUTS: Field[Tensor] = Field("step_rollouts", "step", "int64")
"""How many ways to go on were tried from the end of a step; 0 where the label follows from others, or from the end of
the solution."""
STEP_SOLVED: Field[Tensor] = Field("step_solved", "step", "int64")
"""How many of them came out right."""
STEP_LOW: Field[Tensor] = Field("step_low", "step", "float32")
STEP_HIGH: Field[Tensor] = Field("step_high", "step", "float32")
"""Between these two lies, with 95 % confidence, the share that comes out right."""
ROLLOUT_TOKENS: Field[Tensor] = Field("rollout_tokens", "group", "int64")
"""How many tokens the rollouts of a prompt have."""
JUDGED = (STEPS, STEP_SEQ, STEP_INDEX, STEP_END, STEP_LABELS)
COUNTED = (STEP_ROLLOUTS, STEP_SOLVED, STEP_LOW, STEP_HIGH, ROLLOUT_TOKENS)


class StepRollouts(GeneratorSpec, frozen=True, kw_only=True):
    """Solutions whose steps are judged by rollouts: from the end of a step the solution is finished several times, and
    the step is as good as often that comes out right (Math-Shepherd, arXiv:2312.08935).

    The last step of a solution is right if the solution is; of one that was cut at its longest length, what it broke
    off in is no step. Measured is whether the policy gets there from a step, not whether the step is correct: a policy
    mends wrong steps, and fails behind right ones (arXiv:2501.07301). How often it was tried, how often it came out
    right, and how sure that makes the share, is written beside each label.
    """

    name: ClassVar[str] = "step-rollouts"
    target: ClassVar[str] = "truing_reward.rollouts:StepRollouts"
    offers: ClassVar = dict.fromkeys(JUDGED, "with a generator and a scorer of its own")

    generator: Annotated[GeneratorSpec, Meta(description="who writes the solutions, and finishes them in rollouts")]
    scorer: Annotated[ScorerSpec, Meta(description="who says whether a finished solution is right")]
    right: Annotated[float, Meta(description="the least score of a solution that is right")] = 1.0
    separator: Annotated[str, Meta(min_length=1, description="what stands between the steps of a solution")] = "\n"
    rollouts: Annotated[
        int,
        Meta(
            ge=1,
            description="how often a solution is finished from a step; made up to a multiple of the generator's "
            "samples",
        ),
    ] = 8
    label: Annotated[
        Literal["hard", "soft", "posterior"],
        Meta(
            description="hard: 1 if `least` of the rollouts come out right; soft: the share of them that does; "
            "posterior: the mean of a Beta distribution that has seen them"
        ),
    ] = "soft"
    least: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="hard: the least share of rollouts that come out right from a right step. 0: a single one will "
            "do, and then many a wrong step passes that is mended by chance (arXiv:2501.07301)",
        ),
    ] = 0.0
    prior: Annotated[
        float,
        Meta(gt=0, description="posterior: both parameters of the Beta distribution before it has seen any rollout"),
    ] = 1.0
    search: Annotated[
        Literal["all", "binary"],
        Meta(
            description="all: every step is tried. binary: of wrong solutions the first step from which nothing comes "
            "out right is looked for by halving (OmegaPRM, arXiv:2406.06592); those before it are right, and those "
            "behind it not judged. Of right solutions all steps are right"
        ),
    ] = "all"
    budget: Annotated[
        int,
        Meta(
            ge=0,
            description="tokens of rollouts after which no more of a prompt's steps are tried; they are not judged. 0: "
            "no limit",
        ),
    ] = 0
    phase_budget: Annotated[
        int,
        Meta(
            ge=0,
            description="tokens of rollouts after which no further prompt of the phase gets any: what follows without "
            "them is all that is judged of its solutions. Prompts are tried one after the other. 0: no limit",
        ),
    ] = 0

    def requires(self) -> Fields:
        """What writes and what scores need."""
        return self.generator.requires() | (self.scorer.requires() - self.generator.provides())

    def provides(self) -> Fields:
        """What is written, its scores, and its steps with what is known of them."""
        return self.generator.provides() | fields(SCORES, *JUDGED, *COUNTED)

    def problems(self) -> Iterator[Fault]:
        """Labels that the search cannot make, and options of another kind of label."""
        yield from self.generator.one_turn("generator")
        if self.search == "binary" and self.label != "hard":
            what = f'binary search finds the first wrong step, and no share of all as label = "{self.label}" asks for'
            yield Fault("search", what, 'write label = "hard", or search = "all"')
        if self.least and self.label != "hard":
            yield Fault("least", f'least has no effect with label = "{self.label}"', 'write label = "hard"')
        if self.prior != 1.0 and self.label != "posterior":
            yield Fault("prior", f'prior has no effect with label = "{self.label}"', 'write label = "posterior"')

"""The menu of iterated amplification (arXiv:1810.08575): who decomposes questions, and a task in which the truth is
known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    HEARD,
    IDS,
    OPPONENT,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEQ,
    TOKENS,
    VERSION,
    Field,
    Fields,
    fields,
)
from truing.stage import AnySpec, Fault, GeneratorSpec, SourceSpec

if TYPE_CHECKING:
    from torch import Tensor

CONSULTED: Field[list[list[list[Any]]]] = Field("consulted", "seq")
"""What an overseer asked on the way to an answer, in the order of the answers: of each question how deep it lay, 1 for
those about the prompt itself, the question and its answer."""
ASKED: Field[list[str]] = Field("asked", "group")
"""The question that an overseer, or an assistant, is to answer, without what is said around it."""
SPENT: Field[Tensor] = Field("spent", "seq", "int64")
"""How many tokens were read and written on the way to an answer, by the overseer and by the assistant."""

Points = Annotated[int, Meta(ge=2, le=26, description="how many points a permutation moves")]
Which = Annotated[int, Meta(description="which permutations; the same in the source and in the overseer")]


class Amplify(GeneratorSpec, frozen=True, kw_only=True):
    """An overseer answers each prompt with the help of the model as it is: it asks simpler questions, hears the
    answers, and answers itself (arXiv:1810.08575, section 2: Amplify, with the overseer as H, the assistant as X).

    Learned as demonstrations of the prompts alone, form = "all", the answers distil what both can do together into the
    model; a phase that amplifies it and one that distils, round by round, is iterated amplification. The paper runs
    both at once, with an average of past weights as the assistant, and also trains an imitation of the overseer.

    The overseer is told to write `ask: ...` or `answer: ...`, and hears each answer as the next turn. An overseer that
    writes neither, and one that asks until the budget is spent, abstains: the prompt is lost, as a `GroupFailed` event
    says, and the run stops past `loop.failures`.

    Written as `[generator.overseer] use = "..."` and `[generator.assistant] use = "engine"`.
    """

    name: ClassVar[str] = "amplify"
    target: ClassVar[str] = "truing_oversight.amplify:Amplify"
    offers: ClassVar = {
        **dict.fromkeys((CONSULTED, SPENT), "with an overseer and an assistant"),
        ASKED: "around it, as [generator.overseer]",
    }
    hands: ClassVar = fields(IDS, PROMPTS, PROMPT_TOKENS, PROMPT_GROUP, ASKED)
    """What its parts are handed."""

    overseer: Annotated[GeneratorSpec, Meta(description="who decomposes and recombines; one sample of each")]
    assistant: Annotated[GeneratorSpec, Meta(description="who answers the simpler questions; one sample of each")]
    depth: Annotated[
        int,
        Meta(
            ge=1,
            description="how deep questions are decomposed; at 1 the assistant answers what the overseer asks, at 2 "
            "the overseer answers that, too, and the assistant what it asks then",
        ),
    ] = 1
    budget: Annotated[
        int, Meta(ge=16, description="most tokens that are read and written for an answer, all questions together")
    ] = 4096
    samples: Annotated[int, Meta(ge=1, description="answers per prompt")] = 1
    instruction: Annotated[str, Meta(description="what the overseer is told before each question")] = (
        "Answer the question below. To have a simpler question answered first, write one line: ask: and the question. "
        "When you know the answer, write one line: answer: and the answer."
    )

    def requires(self) -> Fields:
        """What whoever writes needs of prompts."""
        return (self.overseer.requires() | self.assistant.requires() | self.hands) - fields(ASKED)

    def provides(self) -> Fields:
        """Answers, and what they were made of. Nothing is known of their log-probability behind the prompt alone."""
        return fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH, VERSION, CONSULTED, SPENT)

    def problems(self) -> Iterator[Fault]:
        """Parts that write several texts at once, or need more than a question."""
        for option in ("overseer", "assistant"):
            part: GeneratorSpec = getattr(self, option)
            if getattr(part, "samples", 1) != 1:
                yield Fault(option, "of everything one is written", "set samples = 1 in it, and samples here")
            if fields(OPPONENT, HEARD) & part.provides():
                yield Fault(option, "its completions are no single texts", "take opponents and environment out of it")
            if lacking := part.requires() - self.hands:
                what = f'"{part.name}" reads {", ".join(sorted(map(str, lacking)))}, and a question has text alone'
                yield Fault(option, what, 'use = "engine" reads texts')


class PowerOverseer(GeneratorSpec, frozen=True, kw_only=True):
    """The overseer of `permutation-powers`: knows what a permutation does once, and how to halve an exponent.

    It answers p^1(x) itself. For p^n(x) it asks y = p^m(x) and z = p^m(y) with m = n // 2, and answers z, or p(z) when
    n is odd (arXiv:1810.08575, section 4.1). With `confused` it takes some points for each other, always the same: an
    error that whoever learns from it inherits.
    """

    name: ClassVar[str] = "power-overseer"
    target: ClassVar[str] = "truing_oversight.powers:PowerOverseer"

    points: Points = 8
    confused: Annotated[
        int, Meta(ge=0, le=13, description="pairs of points of each permutation whose images it confuses")
    ] = 0
    seed: Which = 0

    def requires(self) -> Fields:
        """The question, which `amplify` alone hands on, and the conversation about it."""
        return fields(PROMPTS, ASKED)

    def provides(self) -> Fields:
        """What it writes, as text."""
        return fields(COMPLETIONS, GROUP)

    def problems(self) -> Iterator[Fault]:
        """More points confused than there are."""
        if 2 * self.confused > self.points:
            yield Fault("confused", f"{self.points} points make {self.points // 2} pairs", "take fewer pairs")


class PermutationPowers(SourceSpec, frozen=True, kw_only=True):
    """Where does a point end when a permutation is applied n times? All questions p^n(x) of some permutations.

    The permutations are drawn once and named by a letter, so an assistant learns them by heart; in the paper's task
    each question shows one of its own (arXiv:1810.08575, section 4.1). No download, and the truth is known: it is the
    completion, for a scorer such as `match`. Where a generator writes the answers, nothing learns from it.
    """

    name: ClassVar[str] = "permutation-powers"
    target: ClassVar[str] = "truing_oversight.powers:permutation_powers"

    permutations: Annotated[int, Meta(ge=1, le=26, description="how many permutations")] = 4
    points: Points = 8
    least: Annotated[int, Meta(ge=1, description="smallest exponent")] = 1
    most: Annotated[int, Meta(ge=1, description="largest exponent")] = 7
    seed: Which = 0

    def provides(self) -> Fields:
        """Questions, and where the point ends."""
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)

    def problems(self) -> Iterator[Fault]:
        """No exponent at all."""
        if self.least > self.most:
            yield Fault("least", f"no exponent lies between {self.least} and {self.most}", "set least below most")


AMPLIFICATION: list[type[AnySpec]] = [Amplify, PowerOverseer, PermutationPowers]

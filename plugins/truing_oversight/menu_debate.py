"""The menu of debate (arXiv:1805.00899): who argues, who judges, and a game in which the truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    HEARD,
    HEARD_BEFORE,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    METADATA,
    OPPONENT,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORE_PARTS,
    SCORES,
    SEQ,
    TOKENS,
    TURNS,
    VERSION,
    Field,
    Fields,
    fields,
)
from truing.stage import AnySpec, Fault, GeneratorSpec, ScorerSpec, SourceSpec

STATEMENTS: Field[list[list[list[Any]]]] = Field("statements", "seq")
"""All that was said in a debate, in its order: of each statement whose claim it is for, 0 for that of the completion's
own side and 1 for the other, and the text."""


class Debate(GeneratorSpec, frozen=True, kw_only=True):
    """Two debaters argue for two claims, so many rounds, and hear each other (arXiv:1805.00899).

    A prompt asks to argue for one of the claims; `metadata` has the `question`, both `claims`, the prompt's own first,
    whether that is true, `honest`, and the prompt of who argues for the other, `opponent`. The same model plays both
    sides. Handed on is the side that the prompt is about: its statements as a completion of several turns, what the
    other side said between them heard and never learned. So a prompt for each side, and a judge's verdict as its score,
    is self-play.

    Simultaneous: in each round both speak before they hear each other. In turn: one hears the other first, in every
    second debate this side is it. Consultancy: the other side says nothing, the baseline (arXiv:2402.06782).

    Written as `[generator.generator] use = "engine"`.
    """

    name: ClassVar[str] = "debate"
    target: ClassVar[str] = "truing_oversight.debate:Debate"
    offers: ClassVar = {STATEMENTS: "with a generator of its own"}

    generator: Annotated[GeneratorSpec, Meta(description="who writes the statements; one sample of each")]
    rounds: Annotated[int, Meta(ge=1, description="statements of each side")] = 2
    order: Annotated[Literal["simultaneous", "in-turn"], Meta(description="who hears whom within a round")] = "in-turn"
    consultancy: Annotated[bool, Meta(description="the other side says nothing")] = False
    samples: Annotated[int, Meta(ge=1, description="debates for each prompt")] = 2
    max_tokens: Annotated[
        int,
        Meta(
            ge=16, description="longest debate as one side hears it, in tokens; a longer one ends before its last round"
        ),
    ] = 2048

    @property
    def max_new_tokens(self) -> int:
        """The most that one side says."""
        return self.rounds * getattr(self.generator, "max_new_tokens", 0)

    @property
    def hears(self) -> int:
        """The most tokens that it hears of the other."""
        return 0 if self.consultancy else self.max_new_tokens

    def requires(self) -> Fields:
        """What whoever writes needs, and what the other side is told."""
        return self.generator.requires() | fields(IDS, PROMPTS, PROMPT_TOKENS, PROMPT_GROUP, METADATA)

    def provides(self) -> Fields:
        """One side of each debate, and all that was said in it."""
        known = fields(LOGPROBS_OLD, LOGPROBS_SAMPLED) & self.generator.provides()
        turns = fields(TURNS, HEARD, HEARD_BEFORE, STATEMENTS)
        return known | turns | fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH, VERSION)

    def problems(self) -> Iterator[Fault]:
        """A generator that writes several statements at once, or in turns of its own."""
        if getattr(self.generator, "samples", 1) != 1:
            yield Fault("generator", "of everything one is written", "set samples = 1 in it, and samples here")
        if fields(OPPONENT, HEARD) & self.generator.provides():
            what = "its completions are no single statements"
            yield Fault("generator", what, "take its opponents and its environment out")


class DebateJudge(ScorerSpec, frozen=True, kw_only=True):
    """A judge hears a debate and says which claim is true: how surely it sides with the completion's own claim, less a
    half, so what one side wins the other loses.

    It is any scorer of texts, asked with the question and all statements as the prompt and both claims as completions.
    `score_parts.right` says whether the judge came to the truth, a half where it is undecided: its mean is the accuracy
    of the judge, with an interval by `truing select FILE --truth score_parts.right`.
    """

    name: ClassVar[str] = "debate-judge"
    target: ClassVar[str] = "truing_oversight.judging:DebateJudge"
    offers: ClassVar = dict.fromkeys((SCORES, SCORE_PARTS), "behind the generator debate")

    scorer: Annotated[ScorerSpec, Meta(description="who judges: `judge`, or whatever scores texts")]
    scores: Annotated[
        Literal["log-odds", "shares"],
        Meta(description="what the difference of its scores of both claims is; or shares, as win rates are"),
    ] = "log-odds"

    def requires(self) -> Fields:
        """What was said, and what is true."""
        return fields(IDS, GROUP, STATEMENTS, METADATA)

    def provides(self) -> Fields:
        """Verdicts."""
        return fields(SCORES, SCORE_PARTS)

    def problems(self) -> Iterator[Fault]:
        """A judge that reads tokens: what it is shown was never sampled."""
        if lacking := self.scorer.requires() - fields(IDS, PROMPTS, COMPLETIONS, GROUP, METADATA):
            what = f'"{self.scorer.name}" reads {", ".join(sorted(map(str, lacking)))}, and a debate is shown as text'
            yield Fault("scorer", what, 'use = "judge" reads texts')


class EvidenceJudge(ScorerSpec, frozen=True, kw_only=True):
    """The judge of `hidden-evidence`: weighs the evidence that was shown to it, and knows of no other.

    It checks what is shown: a letter that is not among the evidence, or was shown before, weighs nothing. The score of
    a claim is log(1 + the weight of what was shown for it).
    """

    name: ClassVar[str] = "evidence-judge"
    target: ClassVar[str] = "truing_oversight.evidence:EvidenceJudge"

    def requires(self) -> Fields:
        """Claims, and the evidence to check by."""
        return fields(COMPLETIONS, GROUP, METADATA)

    def provides(self) -> Fields:
        """A score for each claim."""
        return fields(SCORES)


class HiddenEvidence(SourceSpec, frozen=True, kw_only=True):
    """A question that is decided by evidence too long for its judge: do capitals weigh more, or small letters?

    Of the evidence, some letters of `letters`, each may be there as a capital, as a small letter, or as both; the
    weight of a letter is twice that of the one before. A debater sees all of it and names one letter in a statement. No
    download, and the truth is known; as sparse as the pixels that a judge is shown in arXiv:1805.00899, section 3.

    There is a prompt for each side of a question; the demonstration is any letter of the evidence, for a debater who
    knows how to speak and nothing else. A holdout whose `skip` is the source's `size` has other questions.
    """

    name: ClassVar[str] = "hidden-evidence"
    target: ClassVar[str] = "truing_oversight.evidence:hidden_evidence"

    letters: Annotated[int, Meta(ge=2, le=26, description="how many letters may occur")] = 8
    shown: Annotated[
        int, Meta(ge=2, description="pieces of evidence of a question, each of another letter and case")
    ] = 8
    size: Annotated[int, Meta(ge=1, description="how many questions; there are twice as many prompts")] = 256
    skip: Annotated[int, Meta(ge=0, description="questions left out at the start")] = 0
    seed: Annotated[int, Meta(description="which questions; independent of the run's seed")] = 0

    def provides(self) -> Fields:
        """A prompt for each side, and what is true."""
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP, METADATA)

    def problems(self) -> Iterator[Fault]:
        """More evidence than there are letters."""
        if self.shown > 2 * self.letters:
            yield Fault("shown", f"{self.letters} letters make {2 * self.letters} pieces at most", "take more letters")


DEBATES: list[type[AnySpec]] = [Debate, DebateJudge, EvidenceJudge, HiddenEvidence]

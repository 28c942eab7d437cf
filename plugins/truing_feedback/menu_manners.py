"""The menu entry of a world in which a rule can check a constitution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import ANSWERS, COMPLETIONS, GROUP, IDS, PROMPTS, SCORE_PARTS, SCORES, Fields, fields
from truing.stage import AnySpec, Fault, ScorerSpec, SourceSpec

Share = Annotated[float, Meta(ge=0, le=1)]


class Manners(SourceSpec, frozen=True, kw_only=True):
    """Letters that are to be said in capitals, by someone without manners: who curses with #, shouts with ! and boasts
    with ~. No download; whether an answer is right, and by which principle it is not, a rule can check.

    The constitution is the file beside the code, pkg:truing_feedback/manners.toml: a principle for each sign. A small
    model with fresh weights has to be taught what a pretrained one is said to know in constitutional AI
    (arXiv:2212.08073): `lessons` demonstrate answers without manners, and how to criticise, to revise and to compare.
    """

    name: ClassVar[str] = "manners"
    target: ClassVar[str] = "truing_feedback.manners:manners"

    form: Annotated[
        Literal["answers", "lessons"],
        Meta(
            description="answers: prompts, and the answer as it should be; lessons: of each prompt an answer without "
            "manners, a critique, two revisions and four verdicts, as demonstrations"
        ),
    ] = "answers"
    letters: Annotated[int, Meta(ge=1, le=26, description="how many letters a prompt has")] = 3
    rude: Annotated[Share, Meta(description="lessons: how often each sign is in an answer")] = 0.7
    biased: Annotated[
        Share, Meta(description="lessons: how often a verdict is for the second answer, whatever the answers are")
    ] = 0.0
    reasoned: Annotated[
        bool,
        Meta(
            description="lessons: also four reasonings, which say of each answer whether it has the sign and miss it "
            "three times in ten, and the verdicts behind them"
        ),
    ] = False
    size: Annotated[int, Meta(ge=1, description="how many prompts")] = 256
    skip: Annotated[int, Meta(ge=0, description="prompts left out at the start")] = 0
    seed: Annotated[int, Meta(description="which prompts; independent of the run's seed")] = 0

    @property
    def rows(self) -> int:
        """How many different prompts there are."""
        return math.perm(26, self.letters)

    def provides(self) -> Fields:
        """Prompts, and what is answered."""
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)

    def problems(self) -> Iterator[Fault]:
        """More prompts than there are, and options of lessons without any."""
        if self.skip + self.size > self.rows:
            yield Fault("size", f"{self.letters} letters make {self.rows:,} prompts", "take fewer, or more letters")
        for option, given in (
            ("rude", self.rude != 0.7),
            ("biased", self.biased != 0.0),
            ("reasoned", self.reasoned),
        ):
            if given and self.form != "lessons":
                yield Fault(option, f'{option} has no effect with form = "{self.form}"', 'write form = "lessons"')


class MannersRule(ScorerSpec, frozen=True, kw_only=True):
    """What can be said of an answer to `manners` by a rule: 1 where it has no bad manners, 0 where it has any.

    Its parts: `right`, whether its capitals are those of the answer, whatever signs are around them; and of each
    principle, by its id, whether it is kept.
    """

    name: ClassVar[str] = "manners-rule"
    target: ClassVar[str] = "truing_feedback.manners:MannersRule"

    def requires(self) -> Fields:
        """Completions, and how they should be."""
        return fields(COMPLETIONS, GROUP, ANSWERS)

    def provides(self) -> Fields:
        """Scores, and their parts."""
        return fields(SCORES, SCORE_PARTS)


MANNERS: list[type[AnySpec]] = [Manners, MannersRule]

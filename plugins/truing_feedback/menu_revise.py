"""The menu entry of answers that are criticised and revised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.fields import COMPLETIONS, FINISH, GROUP, IDS, OPPONENT, SEQ, TOKENS, VERSION, Field, Fields, fields
from truing.stage import Fault, GeneratorSpec
from truing_texts.constitution import faults

if TYPE_CHECKING:
    from torch import Tensor

ROUND: Field[Tensor] = Field("round", "seq", "int64")
"""How often an answer was revised."""
CRITIQUES: Field[list[list[dict[str, Any]]]] = Field("critiques", "seq")
"""What led to an answer: of each round the id of the principle, the answer before it and the critique of that."""


class CritiqueRevise(GeneratorSpec, frozen=True, kw_only=True):
    """Answers that are criticised and revised by a constitution, the supervised half of constitutional AI
    (arXiv:2212.08073, section 3.1).

    A prompt is answered; in each round a principle is drawn, the same model is asked to criticise its answer by it, and
    then to write the answer anew. Each is a turn of one conversation, and what was said in a turn is encoded as plain
    text. The revisions are handed on as completions of the prompt alone: to learn them, read them with form = "all".
    As in the paper, a conversation begins with examples of critiques and revisions, if the constitution has any.

    Written as `[generator.generator] use = "engine"`, and `[generator.critic]` where somebody else criticises.
    """

    name: ClassVar[str] = "critique-revise"
    target: ClassVar[str] = "truing_feedback.revise:CritiqueRevise"
    offers: ClassVar = {ROUND: "with a generator of its own", CRITIQUES: "with a generator of its own"}

    generator: Annotated[GeneratorSpec, Meta(description="who answers, criticises and revises; one sample of each")]
    critic: Annotated[
        GeneratorSpec | None,
        Meta(description="who criticises, where that is somebody else: a stronger model behind a server, for example"),
    ] = None
    constitution: Annotated[
        str,
        Meta(
            description="a file of principles, TOML or Markdown, pkg:PACKAGE/FILE for one inside an installed package; "
            '"": those that come with truing'
        ),
    ] = ""
    rounds: Annotated[int, Meta(ge=1, description="how often an answer is revised")] = 4
    samples: Annotated[int, Meta(ge=1, description="answers per prompt, each of which is revised")] = 1
    keep: Annotated[
        Literal["all", "last", "all-and-first"],
        Meta(
            description="all: the revisions of every round, as the paper learns them; last: those of the last one; "
            "all-and-first: the first answer, too, to see what the revisions did to it"
        ),
    ] = "all"
    max_tokens: Annotated[
        int, Meta(ge=16, description="longest conversation, in tokens; behind a longer one nothing more is revised")
    ] = 2048

    @property
    def completions(self) -> int:
        """How many of a prompt are handed on."""
        return self.samples * {"last": 1, "all": self.rounds, "all-and-first": self.rounds + 1}[self.keep]

    def requires(self) -> Fields:
        """What whoever writes needs, and ids."""
        return fields(IDS).union(*(part.requires() for _, part in self._parts()))

    def provides(self) -> Fields:
        """Revisions, and how they came about. Nothing is known of their log-probability behind the prompt alone."""
        return fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH, VERSION, ROUND, CRITIQUES)

    def problems(self) -> Iterator[Fault]:
        """A constitution that is none, and a generator that writes several answers at once."""
        yield from faults(self.constitution)
        for option, part in self._parts():
            yield from part.one_turn(option)
            if getattr(part, "samples", 1) != 1:
                what = "each answer is criticised by itself, so of everything one is written"
                yield Fault(option, what, "set samples = 1 in it, and samples here to how many answers are revised")
            if OPPONENT in part.provides():
                yield Fault(option, "what an opponent writes is not revised", "set opponents = 0 in it")

    def _parts(self) -> list[tuple[str, GeneratorSpec]]:
        return [("generator", self.generator), *([("critic", self.critic)] if self.critic else [])]

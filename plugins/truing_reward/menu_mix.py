"""The menu entry of a scorer made of scorers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.errors import did_you_mean
from truing.fields import COMPLETIONS, GROUP, IDS, PROMPTS, SCORE_PARTS, SCORES, Fields, fields
from truing.stage import Fault, ScorerSpec


class Mix(ScorerSpec, frozen=True, kw_only=True):
    """A weighted sum of what several scorers say, all of them asked at once.

    What each said is kept under its name and reported step by step. One of weight 0 is only watched: a better judge
    than the one that is learned from shows whether learning still serves what was meant. What one of them alone says
    beside its score is handed on: the steps of a process reward model, the spread of an ensemble.

    Written as `[scorer.of.right] use = "match"`, and `weights = {right = 1.0}`.
    """

    name: ClassVar[str] = "mix"
    target: ClassVar[str] = "truing_reward.mix:Mix"

    of: Annotated[dict[str, ScorerSpec], Meta(description="the scorers, by names of your choice")]
    weights: Annotated[
        dict[str, float], Meta(description="weight of each scorer by its name; 1 for one that is not named")
    ] = {}
    keep: Annotated[
        bool,
        Meta(
            description="write what each said of every completion to scores.jsonl in the phase's folder, a line for "
            "each prompt that is asked, with the version of the weights: for `truing overoptimize`"
        ),
    ] = False

    def requires(self) -> Fields:
        """What any of them needs; what is written down has texts."""
        own = fields(IDS, PROMPTS, COMPLETIONS, GROUP) if self.keep else fields()
        return own.union(*(scorer.requires() for scorer in self.of.values()))

    def provides(self) -> Fields:
        """The sum, what it is made of, and what one of them says beside."""
        return fields(SCORES, SCORE_PARTS) | self.beside()

    def beside(self) -> Fields:
        """What one of the scorers alone says, its score apart."""
        said = Counter(field for scorer in self.of.values() for field in scorer.provides())
        return frozenset(field for field, times in said.items() if times == 1) - fields(SCORES, SCORE_PARTS)

    def problems(self) -> Iterator[Fault]:
        """Nobody to ask, weights of nobody, and a sum of nothing."""
        if not self.of:
            yield Fault("of", "a mix of no scorers", "name one as [scorer.of.NAME]")
        for name in self.weights.keys() - self.of.keys():
            yield Fault("weights", f'a weight for "{name}", which is none of the scorers', did_you_mean(name, self.of))
        if self.of and not any(self.weights.get(name, 1.0) for name in self.of):
            yield Fault("weights", "every scorer has weight 0", "give one of them a weight")

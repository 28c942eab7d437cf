"""The menu entry of people who are made up, with tastes that are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta, field

from truing.fields import ANNOTATOR, CHOSEN, COMPLETIONS, GROUP, IDS, PROMPTS, REJECTED, STRATUM, Field, Fields, fields
from truing.stage import Fault, SourceSpec

_PAIRED = "with pairs = true"


class PlantedAnnotators(SourceSpec, frozen=True, kw_only=True):
    """Comparisons of strings of letters by people of known groups: no download, and what each group likes is known.

    Every letter is worth something to a group, and a string the mean of its letters, scaled to variance 1. An annotator
    prefers the first of two with probability sigmoid(difference / noise). For trying out what tells groups apart.
    A holdout whose `skip` is the source's `size` has the same people and other strings.
    """

    name: ClassVar[str] = "planted-annotators"
    target: ClassVar[str] = "truing_pluralism.planted:planted"
    offers: ClassVar[dict[Field[list[str]], str]] = dict.fromkeys((ANNOTATOR, STRATUM), _PAIRED)

    strata: Annotated[dict[str, float], Meta(description="share of the annotators in each group")] = field(
        default_factory=lambda: {"majority": 0.7, "minority": 0.3}
    )
    agreement: Annotated[
        float,
        Meta(ge=-1, le=1, description="correlation of what a string is worth to the first group and to any other"),
    ] = -0.3
    annotators: Annotated[int, Meta(ge=1, description="how many people, who compare in turn")] = 60
    noise: Annotated[float, Meta(gt=0, description="how undecided they are, in standard deviations of worth")] = 0.3
    letters: Annotated[int, Meta(ge=4, le=26, description="how many letters there are")] = 8
    length: Annotated[int, Meta(ge=2, description="letters of a string")] = 6
    pairs: Annotated[bool, Meta(description="false: one string for each prompt, and nobody who compares")] = True
    size: Annotated[int, Meta(ge=1, description="how many comparisons, or strings")] = 512
    skip: Annotated[int, Meta(ge=0, description="comparisons left out at the start")] = 0
    seed: Annotated[int, Meta(description="which people and strings; independent of the run's seed")] = 0

    def provides(self) -> Fields:
        """Strings, and who prefers which."""
        text = fields(IDS, PROMPTS, COMPLETIONS, GROUP)
        return text | fields(CHOSEN, REJECTED, ANNOTATOR, STRATUM) if self.pairs else text

    def problems(self) -> Iterator[Fault]:
        """Shares that are none."""
        if not self.strata or min(self.strata.values()) <= 0:
            yield Fault("strata", "a group without annotators", "give each group a share above 0")

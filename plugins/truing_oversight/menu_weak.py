"""The menu of weak-to-strong generalization (arXiv:2312.09390): labels of a weak supervisor, and a student's loss."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, REJECTED, SCORES, SOFT, Fields, fields
from truing.stage import AdvantageSpec, LossSpec


class WeakLabels(AdvantageSpec, frozen=True, kw_only=True):
    """What a weak supervisor believes of each two completions of a prompt: a pair, and the probability that its first
    is better, by the difference of their scores.

    For a phase that makes data. Which one comes first depends on the prompt's id and the texts alone, so neither the
    order nor anything else says what is true; what a source says of its pairs ends here.
    """

    name: ClassVar[str] = "weak-labels"
    target: ClassVar[str] = "truing_oversight.weak:WeakLabels"
    offers: ClassVar = {SOFT: "behind a [scorer]"}

    temperature: Annotated[
        float,
        Meta(gt=0, description='what differences are divided by; 1 is right for scores with scale = "calibrated"'),
    ] = 1.0

    def requires(self) -> Fields:
        """Scored completions."""
        return fields(IDS, COMPLETIONS, SCORES, GROUP)

    def provides(self) -> Fields:
        """Pairs, and beliefs."""
        return fields(CHOSEN, REJECTED, SOFT)


class WeakToStrong(LossSpec, frozen=True, kw_only=True):
    """Weak labels, and more and more the student's own mind: the auxiliary confidence loss (arXiv:2312.09390, eq. 1).

    The target of a pair is (1 - a) times the weak label plus a times what the student itself holds, made hard at a
    threshold: so it may disagree with mistakes of its supervisor that it would have to learn by heart. a rises from 0
    to `confidence` at the beginning. The threshold is such that the student takes the first for the better one in half
    of a step's pairs, or as often as the labels do; a step should have 32 pairs or more, in no particular order. With
    confidence = 0 it is naive finetuning on weak labels.

    Reported: `agreement`, how often the student sides with the weak label, and `confidence`, a.
    """

    name: ClassVar[str] = "weak-to-strong"
    target: ClassVar[str] = "truing_oversight.weak:WeakToStrong"
    whole_step: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    confidence: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="largest weight of the student's own mind; the paper takes 0.75 for its largest students, "
            "0.5 for others",
        ),
    ] = 0.5
    warmup: Annotated[float, Meta(ge=0, le=1, description="share of the steps in which the weight rises")] = 0.2
    balance: Annotated[
        Literal["half", "labels"],
        Meta(
            description="in how many pairs of a step the student takes the first for the better one: half, or as many "
            "as the weak labels do"
        ),
    ] = "half"

    def requires(self) -> Fields:
        """Pairs, and what the weak supervisor believes."""
        return fields(SCORES, CHOSEN, REJECTED, SOFT)

"""The menu entry of data that an earlier phase made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.check import PHASE_DATA
from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LABEL,
    MARGIN,
    MISMATCHED,
    PROMPTS,
    RANK,
    REJECTED,
    SCORES,
    SOFT,
    STEP_INDEX,
    STEP_LABELS,
    STEP_SEQ,
    STEPS,
    Field,
    Fields,
    fields,
)
from truing.stage import Fault, SourceSpec
from truing_data.handing_out import Bootstrap, Shuffle

_FORMS: Mapping[str, Fields] = {
    "pairs": fields(CHOSEN, REJECTED),
    "rankings": fields(RANK),
    "labels": fields(LABEL),
    "best": fields(),
    "all": fields(),
    "steps": fields(STEPS, STEP_SEQ, STEP_INDEX, STEP_LABELS),
}
_HOW = {
    CHOSEN: 'pairs"',
    REJECTED: 'pairs"',
    RANK: 'rankings"',
    LABEL: 'labels"',
    **dict.fromkeys((STEPS, STEP_SEQ, STEP_INDEX, STEP_LABELS), 'steps"'),
}


class Collected(SourceSpec, frozen=True, kw_only=True):
    """What earlier phases sampled and scored, in the form a loss learns from.

    A phase without [optimizer] and [loss] makes such data. Several phases may be named: then a later round learns from
    what all rounds collected. The files are JSON lines, a group a line; a path that is none of a phase's reads one.
    """

    name: ClassVar[str] = "collected"
    target: ClassVar[str] = "truing_data.collected:collected"
    offers: ClassVar[Mapping[Field[Any], str]] = {
        **{key: f'with form = "{how}' for key, how in _HOW.items()},
        MARGIN: 'with form = "pairs" and margins = true',
        SOFT: 'with form = "pairs" and soft = true, of what a judge said with label_pairs = true',
        MISMATCHED: 'with form = "labels" and mismatched = true',
    }

    path: Annotated[
        str | list[str],
        Meta(description="`@phase`: the data that phase made; a file of such groups; or a list", extra=PHASE_DATA),
    ]
    form: Annotated[
        Literal["pairs", "rankings", "labels", "best", "all", "steps"],
        Meta(
            description="pairs: those the phase's advantage chose; rankings: all completions by their scores; labels: "
            "all, desirable from `threshold` on; best: the best of each group, as a demonstration; all: all of them "
            "as demonstrations; steps: solutions and which of their steps are right"
        ),
    ]
    threshold: Annotated[
        float | None,
        Meta(description="labels: the least score of a desirable one; best: of one that is learned from; else all are"),
    ] = None
    margins: Annotated[bool, Meta(description="pairs: hand on by how much the better one scored higher")] = False
    soft: Annotated[
        bool, Meta(description="pairs: hand on the probability that the better one is better, as a judge gave it")
    ] = False
    mismatched: Annotated[
        bool, Meta(description="labels: add to every prompt a completion of another one, marked as such, for KTO")
    ] = False
    noise: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="pairs: share of them that are turned round, as annotators who err would; which ones depends "
            "on their ids alone, so all who read the file are told the same",
        ),
    ] = 0.0
    skip: Annotated[int, Meta(ge=0, description="groups left out at the start, those kept for a holdout")] = 0
    limit: Annotated[int | None, Meta(description="how many groups to use, after `skip`; all when not given")] = None
    bootstrap: Bootstrap = None
    shuffle: Shuffle = True

    def provides(self) -> Fields:
        """Groups in the form asked for."""
        more = (fields(MARGIN) if self.margins else fields()) | (fields(MISMATCHED) if self.mismatched else fields())
        more |= fields(SOFT) if self.soft else fields()
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP) | _FORMS[self.form] | more

    def reads(self) -> Fields:
        """Pairs or judged steps, or the scores to make the form of."""
        if self.form in ("pairs", "steps"):
            more = (fields(SCORES) if self.margins else fields()) | (fields(SOFT) if self.soft else fields())
            return _FORMS[self.form] | more
        return fields() if self.form == "all" else fields(SCORES)

    def problems(self) -> Iterator[Fault]:
        """Options of another form."""
        if self.form == "labels" and self.threshold is None:
            yield Fault(
                "form", "labels need a threshold", "write threshold = the least score of a desirable completion"
            )
        if self.form in ("pairs", "rankings", "all", "steps") and self.threshold is not None:
            yield Fault("threshold", f'threshold has no effect with form = "{self.form}"', "take it out")
        if self.margins and self.form != "pairs":
            yield Fault("margins", "margins are of pairs", 'write form = "pairs", or take it out')
        if self.noise and (self.form != "pairs" or self.margins):
            what = "margins are of pairs as they are" if self.margins else "noise turns pairs round, and there are none"
            yield Fault("noise", what, "take it out, or read pairs without margins")
        if self.soft and self.form != "pairs":
            yield Fault("soft", "how sure a judge was is said of pairs", 'write form = "pairs", or take it out')
        if self.mismatched and self.form != "labels":
            yield Fault("mismatched", "mismatched is for labelled completions", 'write form = "labels", or take it out')
        if self.limit is not None and self.limit < 1:
            yield Fault("limit", f"limit = {self.limit} leaves no groups", "leave it out to use all of them")

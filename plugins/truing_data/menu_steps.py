"""The menu entry of solutions whose steps are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPTS,
    STEP_INDEX,
    STEP_LABELS,
    STEP_SEQ,
    STEPS,
    Field,
    Fields,
    fields,
)
from truing.stage import Fault, SourceSpec
from truing_data.handing_out import Shuffle
from truing_data.mapping import Value
from truing_data.on_disk import missing_files

STEPPED = fields(IDS, PROMPTS, COMPLETIONS, GROUP, STEPS, STEP_SEQ, STEP_INDEX)
"""What solutions with steps have, labelled or not."""
_MAPPED = ("prompt", "steps", "labels", "first_error")


class StepFile(SourceSpec, frozen=True, kw_only=True):
    """Solutions in steps, and which steps are right, from JSON lines: one object per line.

    A step of which nothing is known is part of its solution and not judged. Where solutions share their beginning, as
    in a tree, each step is judged in one of them. Used rows are held in memory.
    """

    name: ClassVar[str] = "step-file"
    target: ClassVar[str] = "truing_data.steps:step_file"
    offers: ClassVar[Mapping[Field[Any], str]] = {
        **dict.fromkeys((STEPS, STEP_SEQ, STEP_INDEX), "with solutions in steps"),
        STEP_LABELS: "with a `labels` or `first_error` column, or a format that has labels",
    }

    path: Annotated[str | list[str], Meta(description="a file, a pattern like data/*.jsonl, or a list of them")]
    format: Annotated[
        Literal["columns", "prm800k", "math-shepherd", "math-aps"],
        Meta(
            description="columns: those named below. prm800k: as published, all rated alternatives, or trees of "
            "nodes {p, t, r} with their parent, text and rating (arXiv:2305.20050). math-shepherd: `input` and `label` "
            "(arXiv:2312.08935). math-aps: prefixes with their values, as OmegaPRM samples them (arXiv:2406.06592)"
        ),
    ] = "columns"
    prompt: Annotated[str | None, Meta(description="column of the problem; `prompt` when not given")] = None
    steps: Annotated[str | None, Meta(description="column of the list of steps; `steps` when not given")] = None
    labels: Annotated[
        str | None, Meta(description="column of a label for each step, in the sense of `scale`; null: not judged")
    ] = None
    scale: Annotated[
        Literal["human", "probability"] | None,
        Meta(
            description="what `labels` say. human: 1 right, -1 wrong, 0 neutral; probability: that a step is right, "
            "true or false, 1 or 0, or anything between"
        ),
    ] = None
    first_error: Annotated[
        str | None,
        Meta(
            description="column of the place of the first wrong step, the first is 0; null or -1: none. The steps "
            "before it are right, those behind it not judged"
        ),
    ] = None
    neutral: Annotated[
        Literal["good", "bad", "half", "drop"],
        Meta(
            description="what a neutral step of people is: right, wrong, right with a probability of one "
            "half, or not judged"
        ),
    ] = "good"
    after_error: Annotated[
        Literal["keep", "drop"],
        Meta(description="labels of steps behind the first wrong one, that is below one half: keep or drop them"),
    ] = "keep"
    hard: Annotated[
        float | None,
        Meta(
            description="make labels 1 and 0: right from this probability on; as in Math-Shepherd, where one rollout "
            "that comes out right will do, anything a little above 0. As they are when not given"
        ),
    ] = None
    id: Annotated[
        str | None, Meta(description="column of the name of a row; file name and line number when not given")
    ] = None
    system: Annotated[str | None, Meta(description="system message put before every problem")] = None
    chat: Annotated[
        bool, Meta(description="make the problem a user message; false: the text as it stands, without template")
    ] = True
    where: Annotated[
        dict[str, Value], Meta(description="column and value: only rows that are equal in all of them are used")
    ] = {}
    mix: Annotated[
        int | None,
        Meta(description="seed of an order the rows are put into once, before `skip` and `limit`; else file order"),
    ] = None
    skip: Annotated[int, Meta(ge=0, description="rows left out at the start, after `where`")] = 0
    limit: Annotated[int | None, Meta(description="how many rows to use; all when not given")] = None
    shuffle: Shuffle = True
    on_bad: Annotated[
        Literal["fail", "skip"],
        Meta(description="what to do about unusable rows: refuse the data, or leave them out and count them"),
    ] = "fail"

    @property
    def labelled(self) -> bool:
        """Does it say of steps whether they are right?"""
        return self.format != "columns" or self.labels is not None or self.first_error is not None

    def provides(self) -> Fields:
        """Solutions with steps, and labels if there are any."""
        return STEPPED | (fields(STEP_LABELS) if self.labelled else fields())

    def problems(self) -> Iterator[Fault]:
        """Files that are not there, columns of another format, and labels whose sense is left open."""
        yield from missing_files(self.path)
        if self.format != "columns":
            for option in (*_MAPPED, "scale"):
                if getattr(self, option) is not None:
                    what = f'{option} has no effect: format = "{self.format}" knows its columns'
                    yield Fault(option, what, 'take it out, or write format = "columns"')
        elif self.labels is not None and self.first_error is not None:
            yield Fault("first_error", "labels and first_error both say which steps are right", "keep one of them")
        elif (self.labels is None) != (self.scale is None):
            given, absent = ("labels", "scale") if self.scale is None else ("scale", "labels")
            mend = 'write scale = "human" for -1, 0 and 1, scale = "probability" for 0 to 1'
            yield Fault(given, f"{given} without {absent}", mend if self.scale is None else "name the column")
        if self.limit is not None and self.limit < 1:
            yield Fault("limit", f"limit = {self.limit} leaves no rows", "leave it out to use all of them")
        if self.hard is not None and not 0 < self.hard <= 1:
            yield Fault("hard", f"hard = {self.hard} is no probability above 0", "0.5, for example")
        if self.system is not None and not self.chat:
            mend = "use chat = true, or leave `system` out"
            yield Fault("system", "a plain-text prompt takes no system message", mend)

"""The menu of what is asked of a model before and after it was aligned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from msgspec import Meta, field

from truing.fields import COMPLETIONS, GROUP, IDS, METADATA, PROMPTS, Fields, fields
from truing.stage import Fault, SourceSpec
from truing_evaluate.menu_looks import Sampled

BUILT_IN = {"beliefs": "sums", "safety": "pairs", "tasks": "sums"}
"""What each kind of prompt is made of without a file."""
_COLUMNS = {
    "beliefs": ["question", "right", "wrong"],
    "safety": ["prompt", "label"],
    "tasks": ["question", "answer"],
    "plain": ["prompt"],
}


def _columns(kind: str) -> Any:
    return field(default_factory=lambda: [*_COLUMNS[kind]])


class Probes(SourceSpec, frozen=True, kw_only=True):
    """Prompts that show what alignment did to a model: sampled before and after it, and compared by `truing measure`.

    Beliefs: questions, asked as they are, by somebody who holds a wrong answer to be right, and by one who holds the
    right one (arXiv:2310.13548, section 3.2). Safety: prompts that sound unsafe and are not, and such that are
    (arXiv:2308.01263). Tasks: questions with a known answer. Plain: any prompts, whose answers are looked at for length
    and hedging alone. Without files there are sums, and a few pairs of safe and unsafe prompts; figures that are to
    mean something want more.
    """

    name: ClassVar[str] = "probes"
    target: ClassVar[str] = "truing_evaluate.probes:probes"

    beliefs: Annotated[
        str, Meta(description='JSON lines of questions with a right and a wrong answer; "sums": made up; "": none')
    ] = BUILT_IN["beliefs"]
    belief_columns: Annotated[
        list[str], Meta(min_length=3, max_length=3, description="its columns: question, right and wrong answer")
    ] = _columns("beliefs")
    choices: Annotated[
        bool,
        Meta(
            description="show both answers as (A) and (B), which is which by turns, and ask for the letter; false: "
            "which of them it gives is read off its words, for answers that are short"
        ),
    ] = True
    both: Annotated[
        bool,
        Meta(
            description="bring both answers along as completions and ask nothing but beliefs: for a phase without a "
            "generator, in which the scorer likelihood says how likely each is; for models that do not answer"
        ),
    ] = False
    safety: Annotated[
        str, Meta(description='JSON lines of prompts labelled safe or unsafe; "pairs": those of truing; "": none')
    ] = BUILT_IN["safety"]
    safety_columns: Annotated[
        list[str], Meta(min_length=2, max_length=2, description="its columns: prompt, and the label safe or unsafe")
    ] = _columns("safety")
    tasks: Annotated[str, Meta(description='JSON lines of questions and their answers; "sums": made up; "": none')] = (
        BUILT_IN["tasks"]
    )
    task_columns: Annotated[
        list[str],
        Meta(
            min_length=2,
            max_length=2,
            description="its columns: question and answer. Of an answer that is a number the last number counts, of "
            "another one the last line",
        ),
    ] = _columns("tasks")
    plain: Annotated[str, Meta(description='JSON lines of prompts without an answer; "": none')] = ""
    plain_columns: Annotated[list[str], Meta(min_length=1, max_length=1, description="its column: prompt")] = _columns(
        "plain"
    )
    each: Annotated[int, Meta(ge=1, description="how many of each kind at most, drawn by the seed")] = 100
    seed: Annotated[int, Meta(description="which are drawn; independent of the run's seed")] = 0
    system: Annotated[str | None, Meta(description="system message put before every prompt")] = None

    def provides(self) -> Fields:
        """Prompts, the answers that are known, and what each prompt is there for."""
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP, METADATA)

    def problems(self) -> Iterator[Fault]:
        """Files that are not there, and nothing to ask."""
        files = {kind: getattr(self, kind) for kind in _COLUMNS}
        if not any(files.values()):
            yield Fault("beliefs", "nothing is asked", 'leave one of them as it is: beliefs = "sums"')
        for kind, path in files.items():
            if path and path != BUILT_IN.get(kind) and not os.path.isfile(os.path.expanduser(path)):
                known = f'"{BUILT_IN[kind]}" needs none' if kind in BUILT_IN else ""
                yield Fault(kind, f"no file {os.path.abspath(os.path.expanduser(path))}", known)
        for option in ("belief_columns", "safety_columns", "task_columns"):
            if len(set(getattr(self, option))) < len(getattr(self, option)):
                yield Fault(option, "one column cannot be two things", "name each once")


class Measures(Sampled, frozen=True, kw_only=True):
    """Sycophancy, refusals, capability, length and hedging of a model while it learns, on a holdout of `probes`.

    Each figure is what `truing measure` makes of the same completions, with the ends of its interval as `low` and
    `high`. `NAME/change` is how far it has gone since the first look, on the same prompts, with an interval of its own:
    a difference, for `length` a ratio.
    """

    name: ClassVar[str] = "measures"
    target: ClassVar[str] = "truing_evaluate.looks:Measures"

    def requires(self) -> Fields:
        """What each prompt is there for."""
        return fields(METADATA)

"""The menu of data sources: files of rows, data sets of the `datasets` library, generated puzzles, earlier phases.

Only promises live here: the options, and what can be said of them without opening anything; `mapping` has those that
all sources of rows share. `rows` turns one row into a group, `files` and `hub` read rows, `tasks` makes puzzles up,
`collected` reads what an earlier phase wrote, `forms` makes one form of data of another, `held` hands groups out
epoch by epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta, field

from truing.errors import did_you_mean
from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LABEL,
    METADATA,
    MISMATCHED,
    PROMPTS,
    RANK,
    REJECTED,
    SOFT,
    Field,
    Fields,
    fields,
)
from truing.plugins import Command, hookimpl
from truing.stage import AnySpec, Fault, SourceSpec
from truing_data.handing_out import Bootstrap, Shuffle
from truing_data.mapping import MappedSource
from truing_data.menu_chains import ArithmeticChains
from truing_data.menu_collected import Collected
from truing_data.menu_steps import StepFile
from truing_data.on_disk import missing_files, neighbour


class FilesSource(MappedSource, frozen=True, kw_only=True):
    """Options of files of rows."""

    sha256: Annotated[
        list[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]],
        Meta(
            description="what `sha256sum` says of the files, in any order; one with another sum is refused. None: any"
        ),
    ] = []


class Jsonl(FilesSource, frozen=True, kw_only=True):
    """Rows from JSON lines: one object per line, UTF-8. Used rows are held in memory."""

    name: ClassVar[str] = "jsonl"
    target: ClassVar[str] = "truing_data.files:jsonl"

    path: Annotated[str | list[str], Meta(description="a file, a pattern like data/*.jsonl, or a list of them")]

    def problems(self) -> Iterator[Fault]:
        """Files that are not there, and options that cannot go together."""
        yield from missing_files(self.path)
        yield from MappedSource.problems(self)


class Parquet(FilesSource, frozen=True, kw_only=True):
    """Rows from Parquet files. Used rows are held in memory. Checksums of pages are looked at where a file has them."""

    name: ClassVar[str] = "parquet"
    target: ClassVar[str] = "truing_data.files:parquet"

    path: Annotated[str | list[str], Meta(description="a file, a pattern like data/*.parquet, or a list of them")]

    def problems(self) -> Iterator[Fault]:
        """Files that are not there, and options that cannot go together."""
        yield from missing_files(self.path)
        yield from MappedSource.problems(self)


class HuggingFace(MappedSource, frozen=True, kw_only=True):
    """Rows of a data set of the `datasets` library, from the Hugging Face Hub or a local folder.

    HF_HUB_OFFLINE=1 keeps it to what was downloaded before. Code that comes with a data set is never run. Used rows are
    held in memory.
    """

    name: ClassVar[str] = "huggingface"
    target: ClassVar[str] = "truing_data.hub:huggingface"

    path: Annotated[
        str,
        Meta(
            description="a data set of the Hub, like owner/name, a folder written by save_to_disk, or a folder of files"
        ),
    ]
    config: Annotated[
        str | None, Meta(description="which configuration of the data set; its default when not given")
    ] = None
    split: Annotated[str, Meta(description='which split, or a part of one, like "train[:1000]"')] = "train"
    revision: Annotated[
        str | None, Meta(description="branch, tag or commit on the Hub; pin it to read the same again")
    ] = None

    def problems(self) -> Iterator[Fault]:
        """A local folder that is not there, and options that cannot go together."""
        path = Path(os.path.expanduser(self.path))
        local = self.path.startswith((".", "/", "~")) or self.path.count("/") > 1 or "\\" in self.path
        if not os.path.exists(path) and local:
            yield Fault("path", f"no folder {path.absolute()}", neighbour(path))
        if os.path.exists(path) and self.revision is not None:
            yield Fault("revision", f"{self.path} is a local folder and has no revisions", "leave `revision` out")
        if self.path == "pandas":
            yield Fault("path", "it would read pickles, and a pickle can run code", "write the rows as Parquet or JSON")
        yield from MappedSource.problems(self)


class ReasoningGym(SourceSpec, frozen=True, kw_only=True):
    """Puzzles with a known answer, made up by reasoning-gym: no download, no licence, as many as you like.

    The questions of one source are all different. A holdout with the same `tasks`, `options` and `seed` whose `skip` is
    the source's `size` therefore asks nothing that was trained on; another `seed` may repeat a question by chance.
    """

    name: ClassVar[str] = "reasoning-gym"
    target: ClassVar[str] = "truing_data.tasks:reasoning_gym"
    offers: ClassVar[Mapping[Field[Any], str]] = {
        CHOSEN: "with pairs = true",
        REJECTED: "with pairs = true",
        SOFT: "with pairs = true and ties above 0",
        LABEL: "with pairs = true and pairs_to_labels = true",
        MISMATCHED: "with pairs_to_labels = true and mismatched = true",
        RANK: "with rankings = true",
        METADATA: "with any of its tasks",
    }

    tasks: Annotated[list[str], Meta(min_length=1, description="data sets of reasoning-gym, taken in turn")] = field(
        default_factory=lambda: ["basic_arithmetic", "spell_backward"]
    )
    options: Annotated[
        dict[str, dict[str, Any]],
        Meta(
            description="what reasoning-gym lets you configure, by the name of the task; {} for its own defaults, "
            "which are hard"
        ),
    ] = field(default_factory=lambda: _easy())
    size: Annotated[int, Meta(ge=1, description="how many questions, all tasks together")] = 512
    skip: Annotated[
        int, Meta(ge=0, description="questions left out at the start; for a holdout, the `size` of the source")
    ] = 0
    pairs: Annotated[bool, Meta(description="add a plausible wrong answer to every question, as the rejected one")] = (
        False
    )
    rankings: Annotated[
        bool, Meta(description="rank the right answer first and wrong ones behind it, tied with each other")
    ] = False
    rivals: Annotated[int, Meta(ge=1, description="how many wrong answers a pair or ranking sets beside the right")] = 1
    ties: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="share of questions whose pairs are of wrong answers alone, neither better: `soft` is 0.5",
        ),
    ] = 0.0
    pairs_to_labels: Annotated[
        bool, Meta(description="label the right answer desirable and wrong ones undesirable, instead of pairing them")
    ] = False
    mismatched: Annotated[
        bool, Meta(description="add to every question an answer to another one, marked as such, for KTO")
    ] = False
    seed: Annotated[int, Meta(description="which questions; independent of the run's seed")] = 0
    system: Annotated[str | None, Meta(description="system message put before every question")] = None
    chat: Annotated[
        bool, Meta(description="a user and an assistant message; false: plain text, the question on a line of its own")
    ] = True
    bootstrap: Bootstrap = None
    shuffle: Shuffle = True

    def provides(self) -> Fields:
        """Demonstrations, pairs, labels or rankings, and what each question was made of."""
        text = fields(IDS, PROMPTS, COMPLETIONS, GROUP, METADATA)
        if self.pairs_to_labels:
            return text | fields(LABEL) | (fields(MISMATCHED) if self.mismatched else fields())
        if self.rankings:
            return text | fields(RANK)
        pairs = fields(CHOSEN, REJECTED) | (fields(SOFT) if self.ties else fields())
        return text | pairs if self.pairs else text

    def insists(self) -> Fields:
        """That of two answers which are equally good neither counts as the better one."""
        return fields(SOFT) & self.provides()

    def problems(self) -> Iterator[Fault]:
        """Options that would have no effect or take away what this source itself decides."""
        for task in self.tasks:
            if self.tasks.count(task) > 1:
                yield Fault("tasks", f'the task "{task}" is named twice')
        for task, options in self.options.items():
            if task not in self.tasks and self.options != _easy():
                yield Fault(
                    "options", f'options for "{task}", which is not among the tasks', did_you_mean(task, self.tasks)
                )
            for option in options.keys() & {"seed", "size"}:
                yield Fault("options", f"{option} of a task is not for its options", f"[source] has its own `{option}`")
        if self.pairs and self.rankings:
            yield Fault("rankings", "rankings beside pairs", "keep one of them")
        if self.ties and (not self.pairs or self.pairs_to_labels):
            yield Fault("ties", "ties are of pairs, and there are none", "set pairs = true, without pairs_to_labels")
        if self.rivals > 1 and not (self.pairs or self.rankings):
            yield Fault(
                "rivals", "rivals without pairs or rankings", "wrong answers need pairs = true or rankings = true"
            )
        if self.pairs_to_labels and not self.pairs:
            yield Fault("pairs_to_labels", "pairs_to_labels without pairs", "set pairs = true")
        if self.mismatched and not self.pairs_to_labels:
            yield Fault(
                "mismatched", "mismatched is for labelled completions, and there are none", "set pairs_to_labels = true"
            )
        if self.system is not None and not self.chat:
            yield Fault(
                "system", "a plain-text prompt takes no system message", "use chat = true, or leave `system` out"
            )


def _easy() -> dict[str, dict[str, Any]]:
    """Tasks that a model of a hundred million parameters learns something of within minutes."""
    sums = {
        "max_terms": 2,
        "max_digits": 2,
        "operators": ["+", "-"],
        "allow_parentheses": False,
        "allow_negation": False,
    }
    return {"basic_arithmetic": sums, "spell_backward": {"max_word_len": 5}}


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Every source of this plugin."""
    return [Jsonl, Parquet, HuggingFace, ReasoningGym, ArithmeticChains, StepFile, Collected]


@hookimpl
def truing_commands() -> list[Command]:
    """The look at comparisons before anything learns from them."""
    return [Command("data report", "truing_data.agreement.command:report")]

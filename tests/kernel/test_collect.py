"""Phases that make data: what is written, and that a resume writes what an uninterrupted run would have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.collect import collect, rows_of
from truing.errors import Problem, RunFailed, UserError
from truing.events import DataSaved, Event, GroupDropped, GroupWritten, PhaseStarted, StepDone
from truing.fields import (
    ANSWERS,
    CHOSEN,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    LOGPROBS,
    MARGIN,
    PROMPTS,
    REJECTED,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
)
from truing.journal import PhaseFolder
from truing.recipe import Loop, Recipe
from truing.run import Run, Stop, Stopped
from truing.sampling import Stages
from truing.stage import Encoded, Weights
from truing.testing import ToyModel, ToyModelSpec, ToySource, ToySourceSpec

from .scenes import ends

MakeRecipe = Callable[..., Recipe]
Keep = Callable[[Event], object]


class Prompted(ToyModel):
    """A toy model that drops the prompts it is told to."""

    without: tuple[str, ...] = ()

    def encode(self, batch: Batch) -> Encoded:
        kept = [at for at, name in enumerate(batch[IDS]) if name not in self.without]
        dropped = [(name, "too long") for name in batch[IDS] if name in self.without]
        return Encoded(Batch({**batch, IDS: [batch[IDS][at] for at in kept], PROMPTS: [""] * len(kept)}), dropped)


class Writer:
    """Writes two completions a prompt; stops a run when it is asked for the prompt `until`."""

    def __init__(self, stop: Stop, until: str = "") -> None:
        self.stop, self.until = stop, until
        self.asked: list[str] = []

    async def sync_weights(self, weights: Weights) -> None:
        self.version = weights.version

    async def generate(self, batch: Batch) -> Batch:
        if self.until in batch[IDS]:
            self.stop.ask("enough")
            raise Stopped
        self.asked += batch[IDS]
        count = 2 * len(batch[IDS])
        texts = [f"{name}{letter}" for name in batch[IDS] for letter in "ab"]
        group = [at // 2 for at in range(count)]
        return batch.put_all({COMPLETIONS: texts, GROUP: group, TOKENS: [0] * count, FINISH: ["end"] * count})


class Grader:
    async def score(self, batch: Batch) -> Batch:
        return batch.put(SCORES, [float(at) for at in range(len(batch[COMPLETIONS]))])  # pyright: ignore


class Scene:
    """A collecting phase of toys in a folder of its own."""

    def __init__(
        self, folder: Path, until: str = "", without: tuple[str, ...] = (), keep: Keep | None = None, **loop: Any
    ) -> None:
        self.events: list[Event] = []
        stop = Stop()
        run = Run("toy", folder, 0, Bus(keep=keep or self.events.append), "collect", stop=stop)
        model = Prompted(ToyModelSpec(), run)
        model.without = without
        self.writer = Writer(stop, until)
        self.folder = PhaseFolder(folder / "collect")
        source = ToySource(ToySourceSpec(groups=5), run)
        stages = Stages(source=source, model=model, generator=self.writer, scorer=Grader())
        anyio.run(collect, stages, Loop(**{"batch": 2, **loop}), run, self.folder)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder.data / "groups.jsonl").read_text().splitlines()]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def test_every_group_is_written_with_what_was_sampled_and_scored(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    rows = scene.rows()
    assert [row["id"] for row in rows] == list("01234")
    assert rows[1]["completions"] == ["1a", "1b"]
    assert rows[1]["scores"] == [2.0, 3.0]
    assert rows[1]["finish"] == ["end", "end"]
    assert [(event.step, event.steps) for event in scene.of(StepDone)] == [(1, 3), (2, 3), (3, 3)]
    (saved,) = scene.of(DataSaved)
    assert (saved.groups, Path(saved.path)) == (5, (scene.folder.data / "groups.jsonl").resolve())
    assert scene.folder.made


def test_steps_limit_how_much_is_written(tmp_path: Path) -> None:
    assert [row["id"] for row in Scene(tmp_path, steps=2).rows()] == list("0123")


@pytest.mark.parametrize("torn", [False, True])
def test_a_phase_that_was_stopped_goes_on_behind_its_last_whole_batch(torn: bool, tmp_path: Path) -> None:
    first = Scene(tmp_path, until="3")
    assert not first.folder.made
    if torn:
        with (tmp_path / "collect" / "batches.jsonl").open("a") as file:
            file.write('[{"id": "2", "comple')
    second = Scene(tmp_path)
    assert second.of(PhaseStarted)[0].start == 1
    assert (first.writer.asked, second.writer.asked) == (["0", "1"], ["2", "3", "4"])
    assert second.rows() == Scene(tmp_path / "whole").rows()
    assert sorted(path.name for path in (tmp_path / "collect").iterdir()) == ["data"]


@pytest.mark.parametrize("kind", [GroupWritten, StepDone])
def test_a_batch_that_could_not_be_told_of_is_made_again_so_that_every_group_ends_once(
    kind: type[Event], tmp_path: Path
) -> None:
    told: list[Event] = []

    def keep(event: Event) -> None:
        if isinstance(event, kind) and event.step == 2:
            raise RunFailed("cannot write events.jsonl: the disk is full")
        told.append(event)

    with pytest.raises(RunFailed, match="the disk is full"):
        Scene(tmp_path, keep=keep)
    second = Scene(tmp_path)
    assert second.rows() == Scene(tmp_path / "whole").rows()
    assert ends([*told, *second.events]) == ends(Scene(tmp_path / "again").events)
    assert {event.step for event in [*told, *second.events] if isinstance(event, StepDone)} == {1, 2, 3}


def test_a_batch_that_lost_all_its_groups_is_not_asked_again(tmp_path: Path) -> None:
    first = Scene(tmp_path, until="3", without=("0", "1"))
    assert [event.id for event in first.of(GroupDropped)] == ["0", "1"]
    second = Scene(tmp_path, without=("0", "1"))
    assert second.of(GroupDropped) == []
    assert [row["id"] for row in second.rows()] == ["2", "3", "4"]


def test_a_source_of_which_nothing_is_left_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no group of counting was left to write down"):
        Scene(tmp_path, without=tuple("01234"))


def test_a_row_holds_its_own_completions_and_pairs_and_no_tokens() -> None:
    batch = Batch(
        {
            IDS: ["p", "q", "r"],
            PROMPTS: ["1", "2", "3"],
            ANSWERS: ["x", "y", "z"],
            COMPLETIONS: ["a", "b", "c", "d", "e"],
            GROUP: [0, 0, 1, 1, 1],
            SCORES: [0.0, 1.0, 2.0, 3.0, 4.0],
            CHOSEN: [1, 4, 4],
            REJECTED: [0, 2, 3],
            MARGIN: [1.0, 2.0, 1.5],
            TOKENS: [7, 7],
            SEQ: [0, 1],
            LOGPROBS: [-1.0, -1.0],
        }
    )
    first, second, third = rows_of(batch)
    assert first == {
        "id": "p",
        "prompt": "1",
        "completions": ["a", "b"],
        "pairs": [[1, 0]],
        "answers": "x",
        "scores": [0.0, 1.0],
        "margin": [1.0],
    }
    assert (second["pairs"], second["margin"], second["scores"]) == ([[2, 0], [2, 1]], [2.0, 1.5], [2.0, 3.0, 4.0])
    assert third == {"id": "r", "prompt": "3", "completions": [], "answers": "z"}


COLLECTING = """
[phase.collect.source]
use = "toy"
[phase.collect.model]
use = "phased"
[phase.collect.generator]
use = "toy-writer"
[phase.learn.source]
use = "kept"
path = "@collect"
[phase.learn.model]
use = "phased"
[phase.learn.optimizer]
use = "toy"
[phase.learn.loss]
use = "toy"
"""


def told(recipe: MakeRecipe, text: str) -> list[Problem]:
    with pytest.raises(UserError) as error:
        recipe(text)
    return error.value.problems


def test_a_phase_without_optimizer_and_loss_makes_data_for_a_later_one(recipe: MakeRecipe) -> None:
    first, second = recipe(COLLECTING).phases
    assert (first.makes_data, second.makes_data) == (True, False)


def test_a_phase_that_only_lacks_its_loss_is_told_so(recipe: MakeRecipe) -> None:
    text = COLLECTING.replace('[phase.learn.loss]\nuse = "toy"\n', "")
    assert [problem.what for problem in told(recipe, text)] == ["no [phase.learn.loss] in this recipe"]


def test_what_a_later_phase_reads_must_have_been_written(recipe: MakeRecipe) -> None:
    (problem,) = told(recipe, COLLECTING.replace('path = "@collect"', 'path = "@collect"\nscored = true'))
    assert problem.where == "recipe.toml:10"
    assert problem.what == 'source "kept" reads `scores`, which "collect" does not provide'


def test_data_are_no_model_and_a_model_is_no_data(recipe: MakeRecipe) -> None:
    text = COLLECTING.replace(
        '[phase.learn.model]\nuse = "phased"', '[phase.learn.model]\nuse = "phased"\npath = "@collect"'
    )
    (problem,) = told(recipe, text)
    assert problem.what == 'no earlier phase called "collect" makes a model'
    (problem,) = told(recipe, COLLECTING.replace("phase.collect.", "phase.sample."))
    assert (problem.what, problem.mend) == ('no earlier phase called "collect" makes data', "known here: sample")


@pytest.mark.parametrize("option", ["epochs = 2", "evaluate_every = 1", "checkpoint_every = 1", "staleness = 1"])
def test_what_is_of_learning_is_refused_where_nothing_is_learned(option: str, recipe: MakeRecipe) -> None:
    (problem,) = told(recipe, COLLECTING + f"[phase.collect.loop]\n{option}\n")
    assert problem.what == f"loop.{option.partition(' ')[0]} in a phase that makes data"


def test_a_holdout_is_refused_where_nothing_is_learned(recipe: MakeRecipe) -> None:
    (problem,) = told(recipe, COLLECTING + '[phase.collect.holdout]\nuse = "toy"\n')
    assert problem.what == "a [holdout] in a phase that makes data"

"""A whole run: its phases, its observers, its end, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.errors import Problem, RunFailed, UserError
from truing.events import (
    CheckpointSaved,
    Event,
    GroupDropped,
    ModelSaved,
    Notice,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    RunStarted,
    StageEnded,
    StepDone,
)
from truing.fields import Batch
from truing.journal import Journal
from truing.plugins import Plugins
from truing.recipe import Recipe
from truing.run import Run, Stop
from truing.stage import LossValue
from truing.testing import (
    Ran,
    RecordingObserver,
    ToyLossSpec,
    ToyModel,
    ToyModelSpec,
    ToySource,
    run_recipe,
    toy_loss,
)

MakeRecipe = Callable[..., Recipe]


class Heir(ToyModel):
    """A toy that begins with the number an earlier phase ended with."""

    def __init__(self, spec: HeirSpec, run: Run) -> None:
        super().__init__(spec, run)
        if spec.path:
            self.weight = json.loads((Path(run.resolve(spec.path)) / "toy.json").read_text())["weight"]
        self.began = self.weight

    def export(self, folder: Path) -> dict[str, Any]:
        return {**super().export(folder), "began": self.began, "ended": self.weight}


class HeirSpec(ToyModelSpec, frozen=True, kw_only=True):
    """Begins where another ended."""

    name: ClassVar[str] = "heir"
    target: ClassVar[str] = f"{__name__}:Heir"
    path: Annotated[str, Meta(description="@phase", extra=PHASE_MODEL)] = ""


class Stopper:
    """Asks for a stop when it sees some event."""

    def __init__(self, stop: Stop, when: Callable[[Event], bool]) -> None:
        self._stop, self._when = stop, when

    async def open(self) -> None: ...

    async def observe(self, event: Event) -> None:
        if self._when(event):
            self._stop.ask("enough")

    async def close(self) -> None: ...


@pytest.fixture
def plugins(plugins: Plugins) -> Plugins:
    """The toys and an heir."""
    plugins.registry.add(HeirSpec, "test")
    return plugins


def phase(name: str, model: str = 'use = "heir"', loop: str = "batch = 4", more: str = "") -> str:
    header = f"phase.{name}." if name else ""
    tables = {"source": 'use = "toy"', "model": model, "optimizer": 'use = "toy"', "loss": 'use = "toy"', "loop": loop}
    return "".join(f"[{header}{table}]\n{inner}\n" for table, inner in tables.items()) + more


FIRST, SECOND = phase("sft"), phase("dpo", 'use = "heir"\npath = "@sft"')
OBSERVER = '[[observer]]\nuse = "toy"\nfail = "{fail}"\n'


def kinds(ran: Ran) -> list[str]:
    return [type(event).__name__ for event in ran.events if not isinstance(event, StageEnded)]


def of(ran: Ran, kind: type[Any]) -> list[Any]:
    return [event for event in ran.events if isinstance(event, kind)]


# --- phases -----------------------------------------------------------------------------------------------------------


def test_a_run_of_one_phase_tells_its_whole_story(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(phase("")), folder)
    assert kinds(ran) == [
        "RunStarted",
        "DataOpened",
        "PhaseStarted",
        "StepDone",
        "StepDone",
        "ModelSaved",
        "PhaseEnded",
        "RunEnded",
    ]
    assert [event.number for event in ran.events] == list(range(10))
    assert (ran.status, Journal(ran.folder).read().status) == ("finished", "finished")
    assert (ran.folder / "model" / "toy.json").exists()


def test_a_phase_begins_with_the_model_that_an_earlier_one_made(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(FIRST + SECOND), folder)
    first, second = of(ran, ModelSaved)
    assert (first.phase, second.phase) == ("sft", "dpo")
    assert first.facts["began"] == 1.0
    assert second.facts["began"] == first.facts["ended"] != 1.0
    assert first.path == str((ran.folder / "sft" / "model").resolve())
    assert [event.phase for event in of(ran, PhaseEnded)] == ["sft", "dpo"]
    assert of(ran, RunStarted)[0].phases == ["sft", "dpo"]


def test_a_phase_tells_every_option_with_its_value(recipe: MakeRecipe, folder: Path) -> None:
    options = of(run_recipe(recipe(FIRST), folder), PhaseStarted)[0].options
    assert options["loss.scale"] == 1.0
    assert options["loop.batch"] == 4
    assert options["model.use"] == "heir"
    assert not [key for key in options if key.startswith("phase.") or "." not in key]


def test_checkpoints_go_when_the_model_is_there(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(phase("", loop="batch = 4\ncheckpoint_every = 1")), folder)
    assert len(of(ran, CheckpointSaved)) == 2
    assert not (ran.folder / "checkpoints").exists()


def test_a_loss_is_handed_what_it_declared_and_nothing_else(
    recipe: MakeRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[set[str]] = []

    def watched(batch: Batch, *, scale: float) -> LossValue:
        handed.append({field.name for field in batch})
        return toy_loss(batch, scale=scale)

    monkeypatch.setattr(ToyLossSpec, "implementation", classmethod(lambda cls: watched))
    run_recipe(recipe(phase("")), folder)
    assert handed == [{"logprobs"}, {"logprobs"}]


# --- observers --------------------------------------------------------------------------------------------------------


def test_an_observer_sees_everything_the_journal_has(recipe: MakeRecipe, folder: Path) -> None:
    watching = RecordingObserver()
    ran = run_recipe(recipe(FIRST + SECOND), folder, extra=[watching])
    assert watching.events == ran.events
    assert watching.closed


def test_an_observer_that_breaks_is_reported_and_training_goes_on(recipe: MakeRecipe, folder: Path) -> None:
    watching = RecordingObserver()
    ran = run_recipe(recipe(OBSERVER.format(fail="observe") + FIRST), folder, extra=[watching])
    assert ran.status == "finished"
    (notice,) = of(ran, Notice)
    assert notice.text == "RecordingObserver stopped watching: RuntimeError: the recorder was told to fail at observe"
    assert notice in watching.events
    assert len(of(ran, StepDone)) == 2


def test_an_observer_that_cannot_close_costs_the_run_nothing(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(OBSERVER.format(fail="close") + FIRST), folder)
    assert ran.status == "finished"
    assert "told to fail at close" in of(ran, Notice)[0].text


def test_an_observer_that_does_not_open_prevents_the_run(recipe: MakeRecipe, folder: Path) -> None:
    watching = RecordingObserver()
    with pytest.raises(RuntimeError, match="told to fail at open"):
        run_recipe(recipe(OBSERVER.format(fail="open") + FIRST), folder, extra=[watching])
    (made,) = folder.iterdir()
    assert not (made / "events.jsonl").exists()
    assert Journal(made).read().status == "failed"
    assert watching.closed
    assert not watching.events


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_stage_that_breaks_fails_the_run_with_its_reason_everywhere(recipe: MakeRecipe, folder: Path) -> None:
    watching = RecordingObserver()
    text = phase("sft", 'use = "heir"\nfail_at = 2') + SECOND
    with pytest.raises(RuntimeError, match="told to fail at step 2"):
        run_recipe(recipe(text), folder, extra=[watching])
    (made,) = folder.iterdir()
    reason = "RuntimeError: the toy was told to fail at step 2"
    assert (Journal(made).read().status, Journal(made).read().reason) == ("failed", reason)
    assert [type(event) for event in watching.events[-2:]] == [PhaseEnded, RunEnded]
    assert watching.events[-1] == list(Journal(made).events())[-1][1]
    ended = watching.events[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.reason) == ("failed", reason)
    assert not any(isinstance(event, PhaseStarted) and event.phase == "dpo" for event in watching.events)


def test_a_run_that_learned_nothing_says_so_without_the_name_of_an_exception(recipe: MakeRecipe, folder: Path) -> None:
    names = [str(number) for number in range(8)]
    with pytest.raises(RunFailed):
        run_recipe(recipe(phase("", f'use = "heir"\ndrop = {msgspec.json.encode(names).decode()}')), folder)
    (made,) = folder.iterdir()
    reason = Journal(made).read().reason
    assert reason == "no group of counting was left to learn from; the dropped ones are in events.jsonl"
    assert sum(isinstance(event, GroupDropped) for _, event in Journal(made).events()) == 8


def test_a_disk_that_fills_up_fails_the_run_with_its_reason(
    recipe: MakeRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Journal.record

    def full(self: Journal, event: Event) -> None:
        if isinstance(event, StepDone):
            raise RunFailed("cannot write events.jsonl: No space left on device")
        record(self, event)

    monkeypatch.setattr(Journal, "record", full)
    with pytest.raises(RunFailed, match="No space left"):
        run_recipe(recipe(FIRST), folder, extra=[RecordingObserver()])
    (made,) = folder.iterdir()
    assert Journal(made).read().status == "failed"


def test_a_disk_that_takes_no_event_at_all_still_ends_the_run(
    recipe: MakeRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, event: Event) -> None:
        raise RunFailed("cannot write events.jsonl: No space left on device")

    monkeypatch.setattr(Journal, "record", full)
    with pytest.raises(RunFailed, match="No space left"):
        run_recipe(recipe(OBSERVER.format(fail="") + FIRST), folder, extra=[RecordingObserver()])


# --- stop and resume --------------------------------------------------------------------------------------------------


def test_a_run_stopped_before_it_began_trains_nothing(recipe: MakeRecipe, folder: Path) -> None:
    stop = Stop()
    stop.ask("changed my mind")
    ran = run_recipe(recipe(FIRST), folder, stop=stop)
    assert kinds(ran) == ["RunStarted", "RunEnded"]
    assert ran.status == "interrupted"
    assert Journal(ran.folder).read().reason == "changed my mind"


@pytest.mark.parametrize("where", ["sft", "dpo"])
def test_an_interrupted_run_goes_on_and_ends_like_one_that_was_not(
    recipe: MakeRecipe, folder: Path, where: str
) -> None:
    slow = 'use = "heir"\nseconds = 0.03'
    text = phase("sft", slow, "batch = 1") + phase("dpo", slow + '\npath = "@sft"', "batch = 1")
    whole = run_recipe(recipe(FIRST.replace("batch = 4", "batch = 1") + SECOND.replace("4", "1")), folder / "whole")
    stop = Stop()
    stopper = Stopper(stop, lambda event: isinstance(event, StepDone) and (event.phase, event.step) == (where, 2))
    ran = run_recipe(recipe(text), folder, stop=stop, extra=[stopper])
    assert (ran.status, Journal(ran.folder).read().status) == ("interrupted", "interrupted")
    assert of(ran, PhaseEnded)[-1].status == "interrupted"
    assert of(ran, CheckpointSaved)[-1].step == of(ran, StepDone)[-1].step
    again = run_recipe(recipe(text), ran.folder, resumed=True)
    assert (again.status, Journal(again.folder).read().status) == ("finished", "finished")
    trained = [(event.phase, event.step) for event in of(again, StepDone)]
    assert trained == [(event.phase, event.step) for event in of(whole, StepDone)]
    assert [event.facts for event in of(again, ModelSaved)] == [event.facts for event in of(whole, ModelSaved)]
    assert [event.number for event in again.events] == list(range(len(again.events)))
    assert [event.resumed for event in of(again, RunStarted)] == [False, True]


def test_a_phase_that_was_done_is_not_done_again_on_resume(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(FIRST + SECOND), folder)
    before = (ran.folder / "sft" / "model" / "toy.json").stat().st_mtime_ns
    again = run_recipe(recipe(FIRST + SECOND), ran.folder, resumed=True)
    assert kinds(again)[len(kinds(ran)) :] == ["RunStarted", "RunEnded"]
    assert (ran.folder / "sft" / "model" / "toy.json").stat().st_mtime_ns == before


def test_a_failed_run_goes_on_at_the_phase_that_failed(recipe: MakeRecipe, folder: Path) -> None:
    broken = phase("dpo", 'use = "heir"\npath = "@sft"\nfail_at = 2')
    with pytest.raises(RuntimeError):
        run_recipe(recipe(FIRST + broken), folder)
    (made,) = folder.iterdir()
    ran = run_recipe(recipe(FIRST + SECOND), made, resumed=True)
    assert ran.status == "finished"
    assert [event.phase for event in of(ran, PhaseStarted)] == ["sft", "dpo", "dpo"]


def test_a_run_killed_without_a_word_goes_on_over_its_torn_journal(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(FIRST + SECOND), folder)
    events = ran.folder / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-9])
    again = run_recipe(recipe(FIRST + SECOND), ran.folder, resumed=True)
    numbers = [event.number for event in again.events]
    assert numbers == sorted(set(numbers))
    assert of(again, RunEnded)[-1].status == "finished"


def test_a_wrong_row_found_on_the_way_is_the_users_and_told_as_such(
    recipe: MakeRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: ToySource) -> None:
        raise UserError(Problem("data.jsonl:3", "not JSON"))

    monkeypatch.setattr(ToySource, "open", refuse)
    with pytest.raises(UserError, match=r"data\.jsonl:3  not JSON"):
        run_recipe(recipe(FIRST), folder)
    (made,) = folder.iterdir()
    assert Journal(made).read().reason == "data.jsonl:3  not JSON"

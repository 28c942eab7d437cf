"""The offline loop: what is learned, in which order, and what a stop and a resume do to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.errors import RunFailed
from truing.events import (
    CheckpointSaved,
    DataOpened,
    Evaluated,
    Event,
    GroupDropped,
    Notice,
    PhaseStarted,
    StageEnded,
    StepDone,
)
from truing.fields import LOGPROBS, Batch, Fields, fields
from truing.journal import PhaseFolder
from truing.loop import Parts
from truing.offline import offline
from truing.recipe import Loop
from truing.run import Run, Stop, Stopped
from truing.stage import Loss
from truing.testing import (
    ToyLossSpec,
    ToyModel,
    ToyModelSpec,
    ToyOptimizer,
    ToyOptimizerSpec,
    ToySource,
    ToySourceSpec,
)

Hook = Callable[["Learner"], None]


class Learner(ToyModel):
    """A toy model that can be made to ask for a stop, before a step or right after one."""

    def __init__(self, spec: ToyModelSpec, run: Run, before: Hook | None, after: Hook | None) -> None:
        super().__init__(spec, run)
        self.stop = run.stop
        self._before, self._after = before, after
        self.annotated: list[Fields] = []

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        self.annotated.append(wanted)
        return batch

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        if self._before:
            self._before(self)
        learned = super().learn(batch, loss)
        if self._after:
            self._after(self)
        return learned


class Trained:
    """What one go of the loop left behind."""

    def __init__(self, model: Learner, events: list[Event]) -> None:
        self.model, self.events = model, events

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def steps(self) -> list[tuple[int, int, float]]:
        return [(done.step, done.epoch, done.metrics["data/dropped"]) for done in self.of(StepDone)]


def train(
    folder: Path,
    loop: Loop,
    *,
    groups: int = 6,
    drop: list[str] | None = None,
    holdout: int = 0,
    holdout_drop: bool = False,
    resumed: bool = False,
    stopped: bool = False,
    before: Hook | None = None,
    after: Hook | None = None,
) -> Trained:
    async def main() -> Trained:
        events: list[Event] = []
        run = Run("toy", folder, 0, Bus(keep=events.append), stop=Stop(), resumed=resumed)
        if stopped:
            run.stop.ask("before it began")
        model = Learner(ToyModelSpec(drop=drop or []), run, before, after)
        parts = Parts(
            source=ToySource(ToySourceSpec(groups=groups), run),
            model=model,
            optimizer=ToyOptimizer(ToyOptimizerSpec(), run),
            loss=ToyLossSpec().build(run),
            needs=fields(LOGPROBS),
            holdout=ToySource(ToySourceSpec(groups=holdout), run) if holdout else None,
            options={"loop.batch": loop.batch},
        )
        await offline(parts, loop, run, PhaseFolder(folder))
        return Trained(model, events)

    with_timeout = partial(_within, 20, main)
    return anyio.run(with_timeout)


async def _within(seconds: float, work: Callable[[], Any]) -> Any:
    with anyio.fail_after(seconds):
        return await work()


def stop_at(step: int) -> Hook:
    return lambda model: model.stop.ask("enough") if model.version == step else None


# --- how long, and in which order -------------------------------------------------------------------------------------


def test_an_epoch_learns_from_every_group_once(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(batch=4, epochs=2), groups=6)
    assert done.model.learned == [["0", "1", "2", "3"], ["4", "5"], ["1", "2", "3", "4"], ["5", "0"]]
    assert [(step.step, step.steps, step.epoch) for step in done.of(StepDone)] == [
        (1, 4, 0),
        (2, 4, 0),
        (3, 4, 1),
        (4, 4, 1),
    ]


def test_without_steps_or_epochs_a_phase_lasts_one_epoch(tmp_path: Path) -> None:
    assert len(train(tmp_path, Loop(batch=4), groups=6).model.learned) == 2


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_steps_are_counted_across_epochs(tmp_path: Path, steps: int) -> None:
    done = train(tmp_path, Loop(batch=4, steps=steps), groups=6)
    assert len(done.model.learned) == done.model.version == steps
    assert done.of(PhaseStarted)[0].steps == steps


def test_the_phase_tells_what_happens_in_the_order_in_which_it_happens(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(batch=4, steps=4, evaluate_every=2, checkpoint_every=3), holdout=2)
    assert [type(event).__name__ for event in done.events if not isinstance(event, StageEnded)] == [
        "DataOpened",
        "PhaseStarted",
        "DataOpened",
        "Evaluated",
        "StepDone",
        "StepDone",
        "Evaluated",
        "StepDone",
        "CheckpointSaved",
        "StepDone",
        "Evaluated",
    ]
    assert [event.role for event in done.of(DataOpened)] == ["source", "holdout"]
    assert [event.step for event in done.of(Evaluated)] == [0, 2, 4]
    assert done.of(PhaseStarted)[0].options == {"loop.batch": 4}


def test_the_holdout_is_seen_before_and_after_and_never_twice_at_the_end(tmp_path: Path) -> None:
    plain = train(tmp_path / "a", Loop(batch=2, steps=3), holdout=2)
    often = train(tmp_path / "b", Loop(batch=2, steps=3, evaluate_every=1), holdout=2)
    assert [event.step for event in plain.of(Evaluated)] == [0, 3]
    assert [event.step for event in often.of(Evaluated)] == [0, 1, 2, 3]
    assert plain.model.weight == often.model.weight


def test_a_model_is_asked_for_what_the_loss_needs(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(steps=1))
    assert done.model.annotated == [fields(LOGPROBS)]


def test_a_step_tells_how_fast_it_was(tmp_path: Path) -> None:
    metrics = train(tmp_path, Loop(batch=4, steps=1)).of(StepDone)[0].metrics
    assert metrics["speed/tokens_per_second"] == pytest.approx(4 / metrics["speed/step_seconds"])


# --- groups that cannot be learned from -------------------------------------------------------------------------------


def test_a_dropped_group_is_told_with_its_reason_and_counted(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(batch=2), groups=6, drop=["1", "4"])
    assert [(event.id, event.reason) for event in done.of(GroupDropped)] == [
        ("1", "told to drop it"),
        ("4", "told to drop it"),
    ]
    assert done.model.learned == [["0"], ["2", "3"], ["5"]]
    assert [dropped for _, _, dropped in done.steps] == [1, 1, 2]


def test_a_batch_that_lost_all_its_groups_is_no_step(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(batch=2), groups=6, drop=["2", "3"])
    assert done.model.learned == [["0", "1"], ["4", "5"]]
    assert [step for step, _, _ in done.steps] == [1, 2]


@pytest.mark.parametrize("loop", [Loop(batch=2), Loop(batch=2, epochs=3), Loop(batch=2, steps=5)])
def test_a_run_that_has_nothing_left_to_learn_from_fails_instead_of_waiting(tmp_path: Path, loop: Loop) -> None:
    with pytest.raises(RunFailed, match="no group of counting was left"):
        train(tmp_path, loop, groups=3, drop=["0", "1", "2"])


def test_an_empty_source_is_told_by_its_role(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="the source counting has no groups"):
        train(tmp_path, Loop(), groups=0)


def test_a_holdout_that_lost_some_groups_is_noticed_and_one_that_lost_all_fails(tmp_path: Path) -> None:
    done = train(tmp_path / "a", Loop(batch=2, steps=1), holdout=3, drop=["1"])
    assert "1 of 3 groups of the holdout were dropped: told to drop it" in [event.text for event in done.of(Notice)]
    with pytest.raises(RunFailed, match="every group of the holdout"):
        train(tmp_path / "b", Loop(batch=2, steps=1), groups=6, holdout=2, drop=["0", "1"])


# --- stop and resume --------------------------------------------------------------------------------------------------


def test_a_stop_between_steps_keeps_the_last_whole_step(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(batch=2, epochs=2), after=stop_at(2))
    assert done.model.version == 2
    (saved,) = done.of(CheckpointSaved)
    assert (saved.step, Path(saved.path).name) == (2, "step-000002")
    assert isinstance(done.events[-1], CheckpointSaved)


def test_a_stop_inside_a_step_lets_that_step_go(tmp_path: Path) -> None:
    def raise_stopped(model: Learner) -> None:
        if model.version == 2:
            model.stop.ask("now")
            raise Stopped

    done = train(tmp_path, Loop(batch=2, epochs=2), before=raise_stopped)
    assert [step for step, _, _ in done.steps] == [1, 2]
    assert [saved.step for saved in done.of(CheckpointSaved)] == [2]
    again = train(tmp_path, Loop(batch=2, epochs=2), resumed=True)
    assert [step for step, _, _ in again.steps] == [3, 4, 5, 6]


def test_a_stop_before_the_first_step_keeps_nothing_and_fails_nothing(tmp_path: Path) -> None:
    done = train(tmp_path, Loop(batch=2, evaluate_every=1), holdout=2, stopped=True)
    assert done.model.version == 0
    assert not done.of(CheckpointSaved)
    assert not done.of(Evaluated)
    again = train(tmp_path, Loop(batch=2), resumed=True)
    assert again.of(PhaseStarted)[0].start == 0
    assert again.model.version == 3


def test_a_run_that_is_not_resumed_does_not_look_at_old_checkpoints(tmp_path: Path) -> None:
    train(tmp_path, Loop(batch=2), after=stop_at(2))
    assert train(tmp_path, Loop(batch=2)).of(PhaseStarted)[0].start == 0


def test_a_resumed_run_does_not_evaluate_again_where_it_began(tmp_path: Path) -> None:
    train(tmp_path, Loop(batch=2), holdout=2, after=stop_at(1))
    done = train(tmp_path, Loop(batch=2), holdout=2, resumed=True)
    assert [event.step for event in done.of(Evaluated)] == [3]


def test_checkpoints_are_kept_as_many_as_asked_for(tmp_path: Path) -> None:
    train(tmp_path, Loop(batch=1, steps=5, checkpoint_every=1, keep=3))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000003", "step-000004", "step-000005"]


@st.composite
def plans(draw: st.DrawFn) -> tuple[Loop, int, list[str], list[int], bool]:
    """A loop, how many groups, which of them are dropped, after which steps it is stopped, and where in the step."""
    groups = draw(st.integers(1, 7))
    names = [str(number) for number in range(groups)]
    drop = draw(st.lists(st.sampled_from(names), unique=True, max_size=groups - 1)) if groups > 1 else []
    batch = draw(st.integers(1, 4))
    length = {draw(st.sampled_from(["steps", "epochs"])): draw(st.integers(1, 6))}
    every = draw(st.integers(0, 3))
    stops = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=3)))
    return Loop(batch=batch, checkpoint_every=every, **length), groups, drop, stops, draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(plans())
def test_stopped_and_resumed_a_run_learns_what_it_would_have_learned_in_one_go(
    plan: tuple[Loop, int, list[str], list[int], bool],
) -> None:
    loop, groups, drop, stops, inside = plan
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = train(Path(one), loop, groups=groups, drop=drop)
        part = partial(train, Path(other), loop, groups=groups, drop=drop)
        parts: list[Trained] = []
        for step in stops:
            parts.append(part(resumed=bool(parts), **{"before" if inside else "after": stop_at(step)}))
            if not parts[-1].model.stop:
                break
        else:
            parts.append(part(resumed=True))
        assert parts[-1].model.learned == whole.model.learned
        assert parts[-1].model.weight == whole.model.weight
        assert [step for some in parts for step in some.steps] == whole.steps


def test_a_crash_after_the_last_checkpoint_repeats_only_what_came_after_it(tmp_path: Path) -> None:
    def crash(model: Learner) -> None:
        if model.version == 5:
            raise ZeroDivisionError("power")

    with pytest.raises(ExceptionGroup):
        train(tmp_path, Loop(batch=1, steps=9, checkpoint_every=2), before=crash)
    done = train(tmp_path, Loop(batch=1, steps=9, checkpoint_every=2), resumed=True)
    assert done.of(PhaseStarted)[0].start == 4
    assert done.model.learned == train(tmp_path / "whole", Loop(batch=1, steps=9)).model.learned

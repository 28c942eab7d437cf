"""The online way: who waits for whom, how old a completion may be, and what a stop and a resume do."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from truing.errors import RunFailed
from truing.events import Evaluated, GroupDropped, Notice, StepDone
from truing.fields import ANSWERS, COMPLETIONS, FINISH, GROUP, IDS, OPPONENT, PROMPTS, SCORES, TOKENS, Batch
from truing.run import Stop, Stopped
from truing.sampling import numbers_of, prompts_of

from .scenes import Grader, Picky, Scene, Writer, ends


@given(
    staleness=st.integers(0, 3),
    delays=st.lists(st.sampled_from([0.0, 0.002, 0.01]), min_size=1, max_size=4),
    seconds=st.sampled_from([0.0, 0.004]),
)
@settings(deadline=None, max_examples=15)
def test_no_completion_is_older_than_the_bound_and_every_wave_is_learned_from_once_and_in_order(
    staleness: int, delays: list[float], seconds: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), Writer(delays), seconds=seconds, steps=7, staleness=staleness).go()
    ages = [event.metrics["sample/staleness"] for event in scene.of(StepDone)]
    assert len(ages) == 7
    assert max(ages) <= staleness
    assert [names for _, names in scene.writer.asked[:7]] == scene.model.learned
    assert scene.writer.synced == list(range(8))


def test_with_staleness_zero_sampling_and_learning_take_turns(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), steps=4).go()
    assert [version for version, _ in scene.writer.asked] == [0, 1, 2, 3]


def test_with_staleness_one_the_next_wave_is_sampled_while_the_model_learns(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer([0.02]), seconds=0.05, steps=5, staleness=1).go()
    assert [version for version, _ in scene.writer.asked[1:5]] == [0, 1, 2, 3]


def test_what_was_sampled_is_told_with_every_step(tmp_path: Path) -> None:
    first = Scene(tmp_path, Writer(), steps=1).go().of(StepDone)[0].metrics
    assert first["score"] == 0.5
    assert first["score/deviation"] == 0.5
    assert first["sample/length"] == 3
    assert first["sample/cut"] == 0.5
    assert first["speed/sample_seconds"] >= 0


class Blocking(Grader):
    """Keeps the event loop from all other work while it scores "2"."""

    async def score(self, batch: Batch) -> Batch:
        if "2" in batch[IDS]:
            time.sleep(0.4)
        return await super().score(batch)


def test_what_keeps_the_event_loop_from_its_work_is_told_with_the_step_it_delayed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), scorer=Blocking(), steps=4, seconds=0.05).go()
    before, late, *after = [event.metrics["speed/lag_seconds"] for event in scene.of(StepDone)]
    assert late > 0.3
    assert min(before, *after) < 0.2


def test_what_an_opponent_scores_is_not_the_policys_score() -> None:
    wave = Batch({COMPLETIONS: ["a", "b", "c"], TOKENS: [0] * 6, SCORES: [1.0, 2.0, 9.0], OPPONENT: [0, 0, 1]})
    told = numbers_of(wave.put_all({FINISH: ["end", "length", "length"]}))
    assert (told["score"], told["score/deviation"], told["sample/cut"], told["sample/length"]) == (1.5, 0.5, 0.5, 2.0)


def test_groups_that_teach_nothing_are_dropped_and_a_wave_of_them_gives_its_ticket_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), advantage=Picky("0", "1", "2"), epochs=1).go()
    assert scene.model.learned == [["3"], ["4", "5"], ["6", "7"]]
    assert sorted(event.id for event in scene.of(GroupDropped)) == ["0", "1", "2"]
    assert scene.of(StepDone)[-1].metrics["data/dropped"] == 3


def test_a_source_of_which_nothing_teaches_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no group of counting was left to learn from"):
        Scene(tmp_path, Writer(), groups=2, advantage=Picky("0", "1"), steps=3).go()


def test_a_wave_that_lost_groups_is_filled_up_before_it_is_learned_from(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), advantage=Picky("0", "1", "3", "4"), steps=2, refill=3).go()
    assert [names for _, names in scene.writer.asked] == [["0", "1"], ["2", "3"], ["4"], ["5"], ["6", "7"]]
    assert scene.model.learned == [["2", "5"], ["6", "7"]]
    assert [event.metrics["sample/refilled"] for event in scene.of(StepDone)] == [4, 0]
    assert [event.metrics["data/dropped"] for event in scene.of(StepDone)] == [4, 4]
    assert not scene.of(Notice)
    ends(scene.events)


def test_a_wave_that_is_not_full_after_it_was_filled_up_often_enough_is_learned_from_and_told_once(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, Writer(), groups=4, advantage=Picky("0", "1", "2"), steps=2, refill=1).go()
    assert scene.model.learned == [["3"], ["3"]]
    (told,) = scene.of(Notice)
    assert told.text.startswith("wave 1 lacks 1 of 2 groups after it was filled up 1 times; set loop.refill higher")


def test_what_a_wave_was_filled_up_with_is_compared_with_the_rest_of_it(tmp_path: Path) -> None:
    class Whole(Picky):
        def estimate(self, batch: Batch) -> Batch:
            seen.append(list(batch[IDS]))
            return super().estimate(batch)

    seen: list[list[str]] = []
    Scene(tmp_path, Writer(), advantage=Whole("0"), steps=1, refill=1).go()
    assert seen == [["0", "1"], ["2"], ["1", "2"]]


def test_the_holdout_is_sampled_and_scored_before_after_and_on_the_way(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), holdout=True, steps=4, evaluate_every=2).go()
    assert [(event.step, event.metrics["score"]) for event in scene.of(Evaluated)] == [(0, 0.5), (2, 0.5), (4, 0.5)]


@pytest.mark.parametrize("refill", [0, 2])
@pytest.mark.parametrize("staleness", [0, 2])
def test_a_run_that_was_stopped_goes_on_with_nothing_learned_twice_and_nothing_left_out(
    staleness: int, refill: int, tmp_path: Path
) -> None:
    picky, many = Picky("2", "5"), {"epochs": 2, "staleness": staleness, "refill": refill}
    stop = Stop()

    class Stopping(Writer):
        async def generate(self, batch: Batch) -> Batch:
            if len(self.asked) == 3 + staleness:
                stop.ask("enough")
                raise Stopped
            return await super().generate(batch)

    first = Scene(tmp_path, Stopping(), stop=stop, advantage=picky, **many).go()
    done = len(first.of(StepDone))
    assert 0 < done < 6
    second = Scene(tmp_path, Writer(), resumed=True, advantage=picky, **many).go()
    whole = Scene(tmp_path / "whole", Writer(), advantage=picky, **many).go()
    assert second.model.learned == whole.model.learned
    assert second.writer.synced[0] == done


def test_a_stop_amid_the_last_look_keeps_the_last_step_and_a_resume_takes_that_look_alone(tmp_path: Path) -> None:
    stop = Stop()

    class Stopping(Writer):
        async def generate(self, batch: Batch) -> Batch:
            if self.synced[-1] == 3:
                stop.ask("enough")
                raise Stopped
            return await super().generate(batch)

    first = Scene(tmp_path, Stopping(), stop=stop, holdout=True, steps=3, staleness=1).go()
    assert [event.step for event in first.of(Evaluated)] == [0]
    assert len(first.of(StepDone)) == 3
    second = Scene(tmp_path, Writer(), resumed=True, holdout=True, steps=3, staleness=1).go()
    assert [event.step for event in second.of(Evaluated)] == [3]
    assert (second.of(StepDone), second.model.learned) == ([], first.model.learned)
    assert ends(first.events)


def test_a_sampled_group_starts_from_its_prompt_and_keeps_the_answer_it_came_with() -> None:
    batch = Batch({IDS: ["a", "b", "c"], PROMPTS: ["1", "2", "3"], COMPLETIONS: ["x", "y", "z"], GROUP: [0, 0, 2]})
    asked = prompts_of(batch)
    assert asked[ANSWERS] == ["x", "", "z"]
    assert asked[COMPLETIONS] == []
    assert asked[PROMPTS] == ["1", "2", "3"]

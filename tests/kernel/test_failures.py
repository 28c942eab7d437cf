"""What a failure costs: a group, and the run only past the budget; and that no group is lost without a word."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.attempts import Failures, fault
from truing.errors import Problem, RunFailed, UserError
from truing.events import Evaluated, GroupDropped, GroupFailed, Notice, StepDone
from truing.fields import COMPLETIONS, GROUP, IDS, SCORES, TOKENS, Batch
from truing.groups import joined, part
from truing.run import Stopped
from truing.until import Until

from .scenes import Grader, Picky, Scene, Writer, ends


class Broken(Grader):
    """Fails on some groups: raises, hangs, or answers nonsense."""

    def __init__(self, how: Callable[[Batch], Any], *on: str) -> None:
        self.how, self.on = how, on

    async def score(self, batch: Batch) -> Batch:
        scored = await super().score(batch)
        if not set(self.on) & set(batch[IDS]):
            return scored
        made = self.how(scored)
        return made if isinstance(made, Batch) else await made


def raises(batch: Batch) -> Batch:
    raise ZeroDivisionError("no such score")


def no_number(batch: Batch) -> Batch:
    return batch.put(SCORES, [math.nan] * len(batch[COMPLETIONS]))  # pyright: ignore[reportArgumentType]


def too_few(batch: Batch) -> Batch:
    return batch.put(SCORES, batch[SCORES][:1])


async def hangs(batch: Batch) -> Batch:
    await anyio.sleep(600)
    return batch


def other_groups(batch: Batch) -> Batch:
    return part(batch, [0]) if len(batch[IDS]) > 1 else raises(batch)


WAYS = {
    raises: "ZeroDivisionError: no such score",
    no_number: "`scores` is not all numbers",
    too_few: "`scores` has 1 entries where there are 2 along seq",
    hangs: "no answer within 0.05 s",
    other_groups: "ZeroDivisionError: no such score",
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("staleness", [0, 2])
def test_a_scorer_that_fails_costs_the_group_it_fails_on(
    how: Callable[[Batch], Any], staleness: int, tmp_path: Path
) -> None:
    failures = Failures(score_seconds=0.05)
    scene = Scene(tmp_path, Writer(), scorer=Broken(how, "3", "6"), epochs=1, failures=failures, staleness=staleness)
    scene.go()
    assert scene.model.learned == [["0", "1"], ["2"], ["4", "5"], ["7"]]
    assert [(event.id, event.stage, event.error) for event in scene.of(GroupFailed)] == [
        ("3", "score", WAYS[how]),
        ("6", "score", WAYS[how]),
    ]
    assert [event.metrics["data/failed"] for event in scene.of(StepDone)] == [0, 1, 1, 2]
    assert [event.metrics["data/dropped"] for event in scene.of(StepDone)] == [0, 0, 0, 0]
    assert list(ends(scene.events).values()).count("failed") == 2


def test_a_generator_that_fails_once_costs_nothing_but_a_second_call(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(fail_at=2), epochs=1).go()
    assert scene.model.learned == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert [names for _, names in scene.writer.asked][1:4] == [["2", "3"], ["2"], ["3"]]
    assert "generate failed on 2 groups and is asked for each alone: the writer broke" in scene.of(Notice)[0].text


def test_a_wave_that_loses_all_its_groups_is_no_step_and_costs_no_ticket(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), scorer=Broken(raises, "0", "1", "4", "5"), epochs=1, steps=None).go()
    assert scene.model.learned == [["2", "3"], ["6", "7"]]
    assert [event.step for event in scene.of(StepDone)] == [1, 2]
    assert len(ends(scene.events)) == 8


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        (Failures(in_a_row=2), "3 groups in a row failed"),
        (Failures(in_a_row=2, share=1), "3 groups in a row failed"),
    ],
)
def test_too_many_failures_in_a_row_end_the_run_and_say_the_last(failures: Failures, told: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), scorer=Broken(raises, *"234567"), epochs=1, failures=failures)
    with pytest.raises(RunFailed, match=f"{told}.*score: ZeroDivisionError: no such score"):
        scene.go()
    assert scene.model.learned == [["0", "1"]]


def test_too_large_a_share_of_failures_ends_the_run_though_they_are_not_in_a_row(tmp_path: Path) -> None:
    failures = Failures(in_a_row=1, share=0.25)
    scene = Scene(tmp_path, Writer(), scorer=Broken(raises, "1", "3", "5"), epochs=1, failures=failures)
    with pytest.raises(RunFailed, match=r"2 of 4 groups failed, more than loop\.failures allows"):
        scene.go()


def test_a_users_mistake_ends_the_run_at_once(tmp_path: Path) -> None:
    def mistaken(batch: Batch) -> Batch:
        raise UserError(Problem("here", "no such server"))

    with pytest.raises(UserError, match="no such server"):
        Scene(tmp_path, Writer(), scorer=Broken(mistaken, "2"), epochs=1).go()


def test_a_scorer_that_lets_go_when_the_run_is_stopped_fails_nothing(tmp_path: Path) -> None:
    def stops(batch: Batch) -> Batch:
        scene.stop.ask("enough")
        raise Stopped

    scene = Scene(tmp_path, Writer(), scorer=Broken(stops, "4"), epochs=1)
    scene.go()
    assert scene.model.learned == [["0", "1"], ["2", "3"]]
    assert not scene.of(GroupFailed)


def test_a_run_of_which_every_group_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no group of counting was left to learn from; the last failed at score: Zero"):
        Scene(tmp_path, Writer(), groups=2, scorer=Broken(raises, "0", "1"), epochs=1).go()


def test_a_holdout_of_which_some_groups_fail_is_measured_on_the_others_and_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), holdout=True, scorer=Broken(raises, "2"), steps=1, batch=1).go()
    assert [event.metrics["score"] for event in scene.of(Evaluated)] == [0.5, 0.5]
    assert "at step 0, 1 of 3 groups of the holdout failed" in [event.text for event in scene.of(Notice)]


def test_a_prompt_set_smaller_than_a_batch_and_a_group_of_one_are_learned_from(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), groups=1, batch=5, steps=3, staleness=1).go()
    assert scene.model.learned == [["0"]] * 3
    assert len(ends(scene.events)) == 3


def test_groups_whose_rewards_are_all_equal_are_dropped_with_their_reason(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), advantage=Picky("0", "5"), epochs=1, staleness=1).go()
    assert [(event.id, event.wave) for event in scene.of(GroupDropped)] == [("0", 1), ("5", 3)]
    assert list(ends(scene.events).values()).count("dropped") == 2


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_groups_that_are_under_way_when_it_is_enough_are_told_to_be_given_up(staleness: int, tmp_path: Path) -> None:
    until = [Until(metric="weight", below=0.9)]
    scene = Scene(tmp_path, Writer(), steps=9, staleness=staleness, seconds=0.02, until=until).go()
    assert len(scene.model.learned) < 9
    given_up = [event for event in scene.of(GroupDropped) if "the phase ended" in event.reason]
    assert len(given_up) <= 2 * (staleness + 1)
    assert bool(given_up) == bool(staleness)
    ends(scene.events)


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_nothing_is_sampled_that_is_not_learned_from(staleness: int, tmp_path: Path) -> None:
    scene = Scene(tmp_path, Writer(), steps=5, staleness=staleness).go()
    assert len(scene.writer.asked) == 5
    assert set(ends(scene.events).values()) == {"kept"}


# --- what is no answer, and groups out of a batch ---------------------------------------------------------------------


def some() -> Batch:
    texts = {IDS: ["a", "b"], COMPLETIONS: ["x", "y", "z"], GROUP: [0, 0, 1]}
    return Batch({**texts, SCORES: [1.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (some(), ""),
        (some().put(GROUP, [0, 0, 0]), "nothing was written for b"),  # pyright: ignore[reportArgumentType]
        (some().put(SCORES, [1.0, math.inf, 0.0]), "`scores` is not all numbers"),  # pyright: ignore
        (some().put(SCORES, [1.0]), "`scores` has 1 entries where there are 3 along seq"),  # pyright: ignore
        (part(some(), [1]), "an answer for 1 groups where 2 were asked for"),
    ],
)
def test_an_answer_is_one_value_for_everything_that_was_asked(answer: Batch, told: str) -> None:
    assert fault(some(), answer) == told


def test_groups_that_are_taken_apart_and_joined_are_what_they_were() -> None:
    torch = pytest.importorskip("torch")
    from truing.fields import CHOSEN, REJECTED, SEQ, STEP_END, STEP_SEQ
    from truing_tensor.groups import take

    whole = Batch(
        {
            IDS: ["a", "b", "c"],
            COMPLETIONS: ["x", "y", "z", "w"],
            GROUP: torch.tensor([0, 0, 1, 2]),
            TOKENS: torch.arange(6),
            SEQ: torch.tensor([0, 1, 1, 2, 3, 3]),
            CHOSEN: torch.tensor([1]),
            REJECTED: torch.tensor([0]),
            STEP_SEQ: torch.tensor([1, 3, 3]),
            STEP_END: torch.tensor([2, 4, 5]),
            SCORES: torch.tensor([0.1, 0.2, 0.3, 0.4]),
        }
    )
    for groups in ([0, 2], [1], [0, 1, 2], []):
        mine, other = part(whole, groups), take(whole, groups)
        assert mine.keys() == other.keys()
        for key in mine:
            assert (
                torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(other[key]))
                if key.dtype
                else (mine[key] == other[key])
            )
    again = joined([part(whole, [at]) for at in range(3)])
    assert all(torch.equal(again[key], whole[key]) if key.dtype else again[key] == whole[key] for key in whole)
    assert again[SCORES].dtype == torch.float32
    with pytest.raises(ValueError, match="different fields"):
        joined([whole, whole.only(frozenset({IDS}))])

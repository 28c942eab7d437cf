"""Puzzles: different from each other, the same in every run, and wrong answers that are wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.errors import UserError
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
    Batch,
    Group,
    fields,
)
from truing.run import Run
from truing_data.held import digest_of
from truing_data.plugin import ReasoningGym
from truing_data.tasks import Puzzle, load, near, wrong_answers

gym = pytest.importorskip("reasoning_gym")

KINDS = ["gcd", "spell_backward", "coin_flip", "family_relationships", "syllogism", "prime_factorization"]


def refused(**options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(ReasoningGym(**options))
    return [str(problem) for problem in caught.value.problems]


def faults(**options: Any) -> list[str]:
    return [f"{fault.option}: {fault.what} | {fault.mend}" for fault in ReasoningGym(**options).problems()]


def questions(groups: list[Group]) -> list[str]:
    return [str(group.prompt[-1]["content"]) for group in groups if not isinstance(group.prompt, str)]


def test_the_tasks_take_turns_and_every_question_is_another_one() -> None:
    groups = load(ReasoningGym(size=101)).groups
    assert [group.id for group in groups[:3]] == ["basic_arithmetic-0-0", "spell_backward-0-0", "basic_arithmetic-0-1"]
    assert len(groups) == len(set(questions(groups))) == 101


def test_a_holdout_behind_the_source_asks_nothing_that_was_trained_on() -> None:
    easy = {"calendar_arithmetic": {"tasks": ["is_leap_year"]}}
    source = ReasoningGym(tasks=["calendar_arithmetic", "gcd"], options=easy, size=301)
    holdout = ReasoningGym(tasks=source.tasks, options=easy, size=60, skip=301)
    trained, kept = load(source).groups, load(holdout).groups
    assert not set(questions(trained)) & set(questions(kept))
    assert not {group.id for group in trained} & {group.id for group in kept}


def test_neighbouring_seeds_ask_different_questions() -> None:
    first, second = (set(questions(load(ReasoningGym(tasks=["lcm"], seed=seed, size=64)).groups)) for seed in (0, 1))
    assert len(first & second) < 8


@pytest.mark.parametrize("name", KINDS)
def test_the_wrong_answer_is_wrong_to_the_tasks_own_scoring(name: str) -> None:
    task = gym.create_dataset(name, size=40, seed=3)
    pool = sorted({entry["answer"] for entry in task})
    for at, entry in enumerate(task):
        [wrong] = wrong_answers(task, Puzzle(entry["question"], entry["answer"], entry), pool, random.Random(at), 1)
        assert task.score_answer(wrong, entry) < 1 <= task.score_answer(entry["answer"], entry)


@pytest.mark.parametrize("name", KINDS)
def test_a_pair_never_holds_the_same_answer_twice(name: str) -> None:
    for group in load(ReasoningGym(tasks=[name], options={}, pairs=True, size=80)).groups:
        right, wrong = (turns[0]["content"] for turns in group.completions if not isinstance(turns, str))
        assert group.pairs == [(0, 1)]
        assert right != wrong
        assert wrong.strip()


def test_a_task_that_takes_every_answer_for_right_makes_no_pairs() -> None:
    task = SimpleNamespace(score_answer=lambda answer, entry: 1.0)
    assert wrong_answers(task, Puzzle("1 + 1?", "2", {}), [], random.Random(0), 1) == []
    assert wrong_answers(task, Puzzle("Who?", "you", {}), ["me", "you"], random.Random(0), 1) == []


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?", fullmatch=True)


@settings(deadline=None, database=None)
@given(numbers, st.integers(0, 100))
def test_a_slip_is_a_near_number_of_the_same_form(number: str, seed: int) -> None:
    slips = near(number, random.Random(seed))
    assert slips
    for slip in slips:
        assert float(slip) != float(number)
        assert ("." in slip) == ("." in number)
        assert abs(len(slip.lstrip("-")) - len(number.lstrip("-"))) <= 1


def test_the_same_options_make_the_same_groups() -> None:
    spec = ReasoningGym(tasks=["gcd", "family_relationships"], options={}, size=20, pairs=True)
    assert load(spec).groups == load(spec).groups


def test_a_process_with_another_hash_seed_makes_the_same_groups() -> None:
    code = (
        "from truing_data.plugin import ReasoningGym; from truing_data.tasks import load; "
        "from truing_data.held import digest_of; print(digest_of(load(ReasoningGym(size=40, pairs=True)).groups))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == digest_of(load(ReasoningGym(size=40, pairs=True)).groups)


def test_plain_text_puts_the_question_on_a_line_of_its_own() -> None:
    (group,) = load(ReasoningGym(tasks=["gcd"], chat=False, size=1)).groups
    assert isinstance(group.prompt, str)
    assert group.prompt.endswith("\n")
    assert isinstance(group.completions[0], str)


def test_a_system_message_goes_before_every_question() -> None:
    for group in load(ReasoningGym(tasks=["gcd"], system="Be brief.", size=3)).groups:
        assert group.prompt[0] == {"role": "system", "content": "Be brief."}


def test_the_default_puzzles_are_short() -> None:
    for group in load(ReasoningGym(pairs=True)).groups:
        assert sum(len(turns[-1]["content"]) for turns in [group.prompt, *group.completions]) < 80  # pyright: ignore


def test_a_source_of_puzzles_counts_its_groups() -> None:
    spec = ReasoningGym(size=10, pairs=True)

    async def whole() -> tuple[Any, list[Batch]]:
        source = spec.build(Run("test", Path(), 0, Bus()))
        info = await source.open()
        return info, [batch async for batch in source.batches(4, 0)]

    info, batches = anyio.run(whole)
    assert (info.groups, info.skipped, info.origin) == (10, 0, "reasoning-gym: basic_arithmetic, spell_backward")
    assert [len(batch[IDS]) for batch in batches] == [4, 4, 2]
    assert batches[0][CHOSEN].tolist() == [0, 2, 4, 6]
    assert len(batches[0][COMPLETIONS]) == 8


def test_pairs_are_provided_when_asked_for() -> None:
    text = fields(IDS, PROMPTS, COMPLETIONS, GROUP, METADATA)
    assert ReasoningGym().provides() == text
    assert ReasoningGym(pairs=True).provides() == text | fields(CHOSEN, REJECTED)
    assert ReasoningGym(pairs=True, ties=0.5).provides() == text | fields(CHOSEN, REJECTED, SOFT)
    assert ReasoningGym(rankings=True).provides() == text | fields(RANK)
    assert ReasoningGym(pairs=True, pairs_to_labels=True).provides() == text | fields(LABEL)
    labels = ReasoningGym(pairs=True, pairs_to_labels=True, mismatched=True)
    assert labels.provides() == text | fields(LABEL, MISMATCHED)


def test_a_question_may_have_several_wrong_answers_all_different() -> None:
    one, three = (load(ReasoningGym(pairs=True, rivals=rivals, size=40)).groups for rivals in (1, 3))
    assert all(len({str(text) for text in group.completions}) == 4 for group in three)
    assert [group.completions[:2] for group in three] == [group.completions for group in one]
    assert {tuple(group.pairs) for group in three} == {((0, 1), (0, 2), (0, 3))}


def test_a_tie_is_between_wrong_answers_and_the_other_pairs_stay_as_they_are() -> None:
    plain, tied = (load(ReasoningGym(pairs=True, ties=ties, size=60)).groups for ties in (0.0, 0.4))
    assert 10 < sum(group.extra[SOFT] == [0.5] for group in tied) < 40
    for one, other in zip(plain, tied, strict=True):
        tie = other.extra[SOFT] == [0.5]
        assert (other.completions == one.completions) != tie
        assert (one.completions[0] in other.completions) != tie
        assert other.pairs == [(0, 1)]


def test_a_ranking_has_the_right_answer_first_and_the_wrong_ones_tied() -> None:
    for group in load(ReasoningGym(rankings=True, rivals=3, size=10)).groups:
        assert (group.pairs, group.extra[RANK]) == ([], [0, 1, 1, 1])


def test_labels_call_the_right_answer_desirable_and_an_answer_to_another_question_a_stranger() -> None:
    groups = load(ReasoningGym(pairs=True, pairs_to_labels=True, mismatched=True, size=20)).groups
    for group in groups:
        assert (group.extra[LABEL], group.extra[MISMATCHED]) == ([1, 0, 0], [0, 0, 1])
    assert all(group.pairs == [] for group in groups)


def test_a_task_with_too_few_wrong_answers_says_how_many() -> None:
    (said,) = refused(tasks=["coin_flip"], rankings=True, rivals=50, size=1)
    assert "wrong answers to a question, so it makes no pairs" in said
    assert "lower `rivals`" in said


def test_unknown_tasks_and_options_are_told_at_once_with_the_nearest_name() -> None:
    unknown, option = refused(tasks=["chainsum", "gcd"], options={"gcd": {"max_valu": 3}})
    assert 'no task called "chainsum"' in unknown
    assert 'did you mean "chain_sum"?' in unknown
    assert 'the task "gcd" has no option "max_valu"' in option
    assert 'did you mean "max_value"?' in option


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": ["gcd"], "options": {"gcd": {"max_value": 0}}}, 'the task "gcd" refuses its options'),
        ({"tasks": ["boxnet"], "size": 1}, 'the task "boxnet" has questions without a known answer'),
        (
            {
                "tasks": ["calendar_arithmetic"],
                "options": {"calendar_arithmetic": {"tasks": ["is_leap_year"]}},
                "size": 900,
            },
            "different questions, and 900 are asked for",
        ),
    ],
)
def test_a_task_that_cannot_be_made_says_why(options: dict[str, Any], said: str) -> None:
    assert said in refused(**options)[0]


def test_a_task_without_wrong_answers_is_refused_for_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing_data.tasks.wrong_answers", lambda *given: [])
    assert 'the task "gcd" takes every answer tried for right' in refused(tasks=["gcd"], pairs=True, size=1)[0]
    assert len(load(ReasoningGym(tasks=["gcd"], size=1)).groups) == 1


def test_a_task_that_differs_between_processes_asks_for_a_fixed_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert "set PYTHONHASHSEED=0" in refused(tasks=["ransom_note"], size=1)[0]
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(load(ReasoningGym(tasks=["ransom_note"], size=1)).groups) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": ["gcd", "gcd"]}, 'tasks: the task "gcd" is named twice'),
        (
            {"tasks": ["gcd"], "options": {"gdc": {}}},
            'options: options for "gdc", which is not among the tasks | did you',
        ),
        ({"tasks": ["gcd"], "options": {"gcd": {"size": 3}}}, "options: size of a task is not for its options"),
        ({"system": "x", "chat": False}, "system: a plain-text prompt takes no system message"),
        ({"pairs": True, "rankings": True}, "rankings: rankings beside pairs"),
        ({"rivals": 2}, "rivals: rivals without pairs or rankings"),
        ({"ties": 0.5}, "ties: ties are of pairs"),
        ({"ties": 0.5, "pairs": True, "pairs_to_labels": True}, "ties: ties are of pairs"),
        ({"pairs_to_labels": True}, "pairs_to_labels: pairs_to_labels without pairs"),
        ({"pairs": True, "mismatched": True}, "mismatched: mismatched is for labelled completions"),
    ],
)
def test_options_without_an_effect_are_refused(options: dict[str, Any], said: str) -> None:
    assert any(fault.startswith(said) for fault in faults(**options))


def test_other_tasks_need_not_mention_the_options_of_the_default_ones() -> None:
    assert faults(tasks=["gcd"]) == []
    assert faults() == []


@pytest.mark.parametrize("name", [*KINDS, "countdown", "knights_knaves", "mini_sudoku"])
def test_the_metadata_of_a_group_makes_its_puzzle_again(name: str) -> None:
    for group in load(ReasoningGym(tasks=[name], options={}, size=4)).groups:
        [made] = group.extra[METADATA]
        entry = gym.create_dataset(made["task"], **made["options"])[made["index"]]
        assert [{"role": "user", "content": entry["question"].strip()}] == group.prompt


def test_metadata_outlives_labels_and_strangers() -> None:
    for group in load(ReasoningGym(pairs=True, pairs_to_labels=True, mismatched=True, size=4)).groups:
        assert group.extra[METADATA][0]["task"] == group.id.rpartition("-")[0].rpartition("-")[0]

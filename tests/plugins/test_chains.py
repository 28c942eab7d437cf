"""Sums worked out step by step: what is asked, what is answered, and what is true of each step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import COMPLETIONS, IDS, PROMPTS, Batch
from truing.run import Run
from truing_data.chains import load, right_steps, worked
from truing_data.menu_chains import ArithmeticChains


def questions(**options: Any) -> list[str]:
    return [str(group.prompt) for group in load(ArithmeticChains(chat=False, **options)).groups]


def test_a_sum_is_worked_out_one_operation_a_line() -> None:
    assert worked("47+38-19") == ["47+38=85", "85-19=66"]


def test_the_last_line_of_an_answer_is_what_the_sum_comes_to_and_nothing_on_the_way_is_negative() -> None:
    for group in load(ArithmeticChains(size=200, least=1, most=7, chat=False)).groups:
        question, solution = str(group.prompt).strip(), str(group.completions[0])
        assert int(solution.rpartition("=")[2]) == sum(map(int, re.findall(r"[+-]?\d+", question)))
        assert all(int(line.rpartition("=")[2]) >= 0 for line in solution.splitlines())
        assert 1 <= solution.count("=") == solution.count("\n") + 1 <= 7
        assert all(right_steps(question, solution))


@pytest.mark.parametrize(
    ("solution", "right"),
    [
        ("47+38=85\n85-19=66", [True, True]),
        ("47+38=75\n75-19=56", [False, True]),
        ("47+38=85\n85-91=66", [True, False]),
        ("47+38=85\n75-19=56", [True, False]),
        ("47+38=85\n85-19=66\n66+1=67", [True, True, False]),
        ("47+38=85", [True]),
        ("well\n47-19=28", [False, False]),
        ("47 + 38 = 85", [False]),
        ("", []),
    ],
)
def test_a_step_is_right_if_it_does_the_next_operation_on_what_the_step_before_came_to(
    solution: str, right: list[bool]
) -> None:
    assert right_steps("47+38-19", solution) == right


def test_a_holdout_asks_what_comes_behind_the_source_and_no_question_comes_twice() -> None:
    both = questions(size=60, digits=1, first=1, least=1, most=2)
    assert len(set(both)) == 60
    assert questions(size=20, skip=40, digits=1, first=1, least=1, most=2) == both[40:]
    assert questions(size=60, digits=1, first=1, least=1, most=2, seed=1) != both


def test_more_sums_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match="hardly more than"):
        questions(size=1000, digits=1, first=1, least=1, most=1)


def test_terms_have_the_digits_that_were_asked_for() -> None:
    for question in questions(size=50, digits=1, first=3):
        first, *others = re.findall(r"\d+", question)
        assert len(first) == 3
        assert {len(term) for term in others} == {1}


def test_options_that_leave_no_sum_are_found_before_anything_is_built() -> None:
    assert [fault.option for fault in ArithmeticChains(least=5, most=4).problems()] == ["least"]
    assert [fault.option for fault in ArithmeticChains(system="Add.", chat=False).problems()] == ["system"]


def test_the_source_hands_out_messages(tmp_path: Path) -> None:
    async def first() -> Batch:
        source = ArithmeticChains(size=4, system="Add.").build(Run("test", tmp_path, 0, Bus()))
        assert (await source.open()).groups == 4
        return await anext(source.batches(4, 0))

    batch = anyio.run(first)
    assert sorted(batch[IDS]) == ["chain-0-0", "chain-0-1", "chain-0-2", "chain-0-3"]
    assert [turn["role"] for turn in batch[PROMPTS][0]] == ["system", "user"]  # type: ignore[index]
    assert batch[COMPLETIONS][0][0]["role"] == "assistant"  # type: ignore[index]

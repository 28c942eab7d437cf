"""Sums worked out step by step: what is asked, what is answered, and what is true of each step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import COMPLETIONS, IDS, PROMPTS, Batch, Group
from truing.run import Run
from truing_data.chains import believed, demonstrated, load, right_steps
from truing_data.menu_chains import ArithmeticChains


def groups(**options: Any) -> list[Group]:
    return load(ArithmeticChains(chat=False, **options)).groups


def questions(**options: Any) -> list[str]:
    return [str(group.prompt).strip() for group in groups(**options)]


def test_a_sum_is_worked_out_one_number_a_line() -> None:
    assert demonstrated("47 +3 -8", ArithmeticChains()) == ["47+3=50", "50-8=42"]


def test_totals_go_round_with_a_modulus() -> None:
    assert demonstrated("17 +5 -4", ArithmeticChains(modulus=20)) == ["17+5=2", "2-4=18"]
    assert right_steps("17 +5 -4", "17+5=2\n2-4=18", modulus=20) == [True, True]
    assert right_steps("17 +5 -4", "17+5=22\n22-4=18", modulus=20) == [False, True]


def test_a_misconception_is_always_the_same_wrong_total_and_shows_as_often_as_asked() -> None:
    spec = ArithmeticChains(chat=False, size=2000, modulus=10, largest=4, misconceptions=0.25, mistaken=0.6)
    came_to: dict[tuple[str, str], Counter[int]] = {}
    for group in load(spec).groups:
        before, *terms = str(group.prompt).split()
        for line, term in zip(str(group.completions[0]).splitlines(), terms, strict=True):
            assert line.startswith(f"{before}{term}="), "it goes on from what it came to, right or wrong"
            after = line.rpartition("=")[2]
            came_to.setdefault((before, term), Counter())[int(after)] += 1
            before = after
    wrong = {step: misled for step in came_to if (misled := believed(*step, spec)) is not None}
    assert len(came_to) == 10 * 8
    assert 10 <= len(wrong) <= 30
    for (before, term), totals in came_to.items():
        assert set(totals) == {
            (int(before) + int(term)) % 10,
            *([wrong[before, term]] if (before, term) in wrong else []),
        }
    shown = sum(came_to[step][misled] for step, misled in wrong.items())
    assert shown / sum(came_to[step].total() for step in wrong) == pytest.approx(0.6, abs=0.03)


def test_misconceptions_need_a_modulus_and_mistakes_need_misconceptions() -> None:
    assert [fault.option for fault in ArithmeticChains(misconceptions=0.2).problems()] == ["misconceptions"]
    assert [fault.option for fault in ArithmeticChains(mistaken=0.2, modulus=20).problems()] == ["mistaken"]
    assert [fault.option for fault in ArithmeticChains(modulus=1).problems()] == ["modulus"]


@pytest.mark.parametrize(("digits", "largest"), [(1, 9), (2, 9), (3, 40)])
def test_every_total_has_its_digits_and_every_step_of_an_answer_is_right(digits: int, largest: int) -> None:
    for group in groups(size=100, operations=5, digits=digits, largest=largest):
        question, solution = str(group.prompt).strip(), str(group.completions[0])
        totals = [line.rpartition("=")[2] for line in solution.splitlines()]
        assert {len(total) for total in [question.split()[0], *totals]} == {digits}
        assert int(totals[-1]) == sum(map(int, question.split()))
        assert {abs(int(term)) for term in question.split()[1:]} <= set(range(1, largest + 1))
        assert right_steps(question, solution) == [True] * 5


def test_numbers_are_added_and_taken_away_alike() -> None:
    asked = questions(size=2000, operations=1, digits=3)
    terms = Counter(int(question.split()[1]) for question in asked)
    assert set(terms) == {*range(-9, 0), *range(1, 10)}
    assert max(terms.values()) < 2 * min(terms.values())


@pytest.mark.parametrize(
    ("solution", "right"),
    [
        ("47+3=50\n50-8=42", [True, True]),
        ("47+3=40\n40-8=32", [False, True]),
        ("47+3=40\n50-8=42", [False, False]),
        ("47+3=50\n50-9=41", [True, False]),
        ("47+3=50\n50-8=42\n42+0=42", [True, True, False]),
        ("47+3=50", [True]),
        ("well\n-8", [False, False]),
        ("47 +3=50", [False]),
        ("47+3=050", [False]),
        ("", []),
    ],
)
def test_a_step_is_right_if_it_does_the_next_operation_on_what_the_step_before_came_to(
    solution: str, right: list[bool]
) -> None:
    assert right_steps("47 +3 -8", solution) == right


def test_a_holdout_asks_what_comes_behind_the_source_and_no_question_comes_twice() -> None:
    both = questions(size=60, operations=1, digits=1)
    assert len(set(both)) == 60
    assert questions(size=20, skip=40, operations=1, digits=1) == both[40:]
    assert questions(size=60, operations=1, digits=1, seed=1) != both


def test_more_questions_than_there_are_cannot_be_asked_for() -> None:
    assert len(questions(size=72, operations=1, digits=1)) == 72
    with pytest.raises(UserError, match="hardly more than 72 different questions, and 73 are asked for"):
        questions(size=73, operations=1, digits=1)


def test_a_system_message_needs_messages() -> None:
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

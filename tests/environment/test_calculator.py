"""The calculator: what it reads, what it refuses, and when a rollout is over."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import anyio
import pytest
from hypothesis import given, strategies as st

from truing.bus import Bus
from truing.fields import EARNED, SCORES, Batch
from truing.run import Run
from truing.stage import Reply, Said, Task
from truing.testing import check_spec
from truing_environment.calculator import LONGEST, evaluated, written
from truing_environment.plugin import Calculator, Earned

TASK = Task("a", "47 +3", "50", {}, 0)


def asked(text: str, ended_by: str = "=", **options: str) -> Reply:
    async def go() -> Reply:
        run = Run("test", Path(), 0, Bus())
        episode = await Calculator(**options).build(run).reset(TASK)
        return await episode.step(Said(text, ended_by))

    return anyio.run(go)


def test_they_keep_their_promises() -> None:
    check_spec(Calculator)
    check_spec(Earned)


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map("({0[0]}{0[1]}{0[2]})".format),
        max_leaves=6,
    )
)
def test_an_expression_comes_to_what_python_makes_of_it(text: str) -> None:
    assert evaluated(text) == Fraction(eval(text))  # noqa: S307


@pytest.mark.parametrize(
    ("text", "value"),
    [("7/2", "3.5"), ("1/3", "0.333333"), ("-2/3", "-0.666667"), ("0.1+0.2", "0.3"), ("6/3", "2"), ("--4*2", "8")],
)
def test_a_result_is_exact_until_it_is_written(text: str, value: str) -> None:
    assert written(evaluated(text), 6) == value


@pytest.mark.parametrize(
    "text",
    ["", "1+", "(1", "1)", "1 2", "2**3", "x+1", "__import__('os')", "1/0", "(" * 99, "1" * (LONGEST + 1), "٣+١"],
)
def test_what_is_no_expression_is_answered_and_the_model_goes_on(text: str) -> None:
    assert asked(text) == Reply("?\n")


def test_the_last_line_is_worked_out_or_what_stands_behind_the_mark() -> None:
    assert asked("so far 50\n50-8") == Reply("42\n")
    assert asked("He has <<48/2", opening="<<", closing=">>") == Reply("24>>")


def test_a_turn_that_asks_nothing_is_the_last() -> None:
    assert asked("42", ended_by="") == Reply(done=True)


def test_what_was_earned_is_the_score() -> None:
    run = Run("test", Path(), 0, Bus())
    scored = anyio.run(Earned().build(run).score, Batch({EARNED: [1.0, 0.5]}))
    assert scored[SCORES] == [1.0, 0.5]

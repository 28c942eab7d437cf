"""What a look at the holdout comes to: right ones among k, on average and by vote."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import COMPLETIONS, GROUP, IDS, PROMPTS, SAMPLES, SCORE_PARTS, SCORES, TEMPERATURE, Batch
from truing.run import Run
from truing.testing import check_spec
from truing_evaluate.looks import pass_at
from truing_evaluate.menu_looks import PassAtK


def look(**options: Any) -> Any:
    return PassAtK(**options).build(Run("test", Path(), 0, Bus()))


def test_it_keeps_its_promises() -> None:
    check_spec(PassAtK)
    assert [fault.option for fault in PassAtK(samples=4, k=[1, 9]).problems()] == ["k"]


def test_prompts_are_asked_as_in_training_unless_it_says_otherwise() -> None:
    batch = Batch({IDS: ["a"]})
    assert look().asked(batch) == batch
    asked = look(samples=8, temperature=0.5).asked(batch)
    assert (asked[SAMPLES], asked[TEMPERATURE]) == (8, 0.5)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_all_draws_that_have_a_right_one(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    draws = list(combinations(right, k))
    expected = Fraction(sum(map(any, draws)), len(draws))
    assert pass_at(len(right), sum(right), k) == pytest.approx(float(expected), abs=1e-12)


def answered() -> Batch:
    """Two prompts with three completions each: one of the first is right, two of the second."""
    return Batch(
        {
            IDS: ["a", "b"],
            PROMPTS: ["2+2=", [{"role": "user", "content": "3+3="}]],
            GROUP: [0, 0, 0, 1, 1, 1],
            COMPLETIONS: ["so #5", "#5", "#4", "#6", [{"role": "assistant", "content": "it is # 6"}], "#6 or #7"],
            SCORES: [0.0, 0.2, 1.0, 1.0, 1.0, 0.0],
            SCORE_PARTS: [{"close": score} for score in (0.9, 0.9, 1.0, 1.0, 1.0, 0.5)],
        }
    )


def test_the_numbers_of_a_look_are_means_over_prompts() -> None:
    found = look(k=[1, 2, 3], vote_after="#").numbers(answered())
    assert found == pytest.approx(
        {
            # One of three, and two of three: 1 - C(2, 2) / C(3, 2), and certainty.
            "pass@1": (1 / 3 + 2 / 3) / 2,
            "pass@1/error": 1 / 6,
            "pass@2": (2 / 3 + 1) / 2,
            "pass@2/error": 1 / 6,
            "pass@3": 1.0,
            "pass@3/error": 0.0,
            # "5" wins, which is wrong; "6" wins, which is right.
            "majority@3": 0.5,
            "majority@3/error": 0.5,
        }
    )
    assert look(k=[1], by="close", right=0.9).numbers(answered())["pass@1"] == pytest.approx((1 + 2 / 3) / 2)
    assert look(k=[1], vote_after="#", right=0.5).numbers(answered().put(COMPLETIONS, ["x"] * 6))["majority@3"] == 0.5


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(UserError, match="4 of 3 completions cannot be drawn"):
        look(k=[4]).numbers(answered())
    with pytest.raises(UserError, match='no scorer of the mix is called "clos"'):
        look(k=[1], by="clos").numbers(answered())


def test_the_completions_of_the_first_prompts_are_shown() -> None:
    rows = look(shown=1).rows(answered())
    assert [row["completion"] for row in rows] == ["so #5", "#5", "#4"]
    assert rows[2] == {"id": "a", "prompt": "2+2=", "completion": "#4", "score": 1.0}

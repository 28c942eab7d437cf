"""Reward models on pairs: accuracy and its intervals, ties, calibration, length, categories and sections."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from truing.errors import UserError
from truing_evaluate.calibration import by_mass, by_width, calibration, error, folded, nll, sigmoid, temperature
from truing_evaluate.intervals import effective, mean_of, ratio, resampled, share_of, sums_of, wilson
from truing_evaluate.lengths import controlled
from truing_evaluate.pairs import pairs_of, pairwise, tau_b
from truing_evaluate.reporting import difference, recovered, report
from truing_evaluate.rows import read
from truing_evaluate.sections import WEIGHTS, rewardbench

from .conftest import Write, shared


def pair(better: float, worse: float, **more: Any) -> dict[str, Any]:
    return {"pairs": [[0, 1]], "scores": [better, worse], **more}


def flat(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=float)


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_members_of_an_ensemble_are_told_apart_by_accuracy_correlation_and_where_they_disagree(write: Write) -> None:
    rows = [
        pair(1.0, 0.0, member_scores=[[1.0, 1.0], [0.0, 0.0]]),
        pair(1.5, 0.0, member_scores=[[2.0, 1.0], [0.0, 0.0]]),
        pair(-1.0, 0.0, member_scores=[[1.0, -3.0], [0.0, 0.0]]),
    ]
    told = report(read(write(rows)), "scores", [], None, 0.0).members
    assert told is not None
    assert [it.value for it in told.accuracy] == pytest.approx([1.0, 2 / 3])
    assert told.correlation == pytest.approx(np.corrcoef([1, 2, 1], [1, 1, -3])[0, 1])
    assert told.disagreement == pytest.approx(1 / 3)
    assert told.auroc == 1.0


def test_an_ensemble_has_as_many_members_in_every_row(write: Write) -> None:
    rows = [pair(1.0, 0.0, member_scores=[[1.0, 1.0], [0.0]])]
    with pytest.raises(UserError, match="does not have two numbers or more, and as many"):
        report(read(write(rows)), "scores", [], None, 0.0)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_wilsons_interval_is_the_one_of_the_textbook() -> None:
    # 81 of 263 (Brown, Cai and DasGupta, 2001, discuss the formula); worked out by hand from it.
    got = wilson(81 / 263, 263)
    assert (got.low, got.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(1.0, 10).high == 1.0
    assert wilson(1.0, 10).low == pytest.approx(0.7225, abs=1e-4)
    assert (wilson(0.0, 0).low, wilson(0.0, 0).high) == (0.0, 1.0)


def test_ten_pairs_of_one_prompt_are_no_ten_observations() -> None:
    assert effective(np.arange(10)) == 10
    assert effective(np.zeros(10, dtype=np.int64)) == 1
    apart, together = (share_of(np.ones(10), groups) for groups in (np.arange(10), np.zeros(10, dtype=np.int64)))
    assert together.low < apart.low


def test_resampling_draws_prompts_and_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    got = mean_of(values)
    assert got.value == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx(
        (values.mean() - 1.96 * values.std() / 20, values.mean() + 1.96 * values.std() / 20), abs=0.02
    )


def test_resampling_keeps_the_pairs_of_a_prompt_together() -> None:
    right = np.repeat(np.random.default_rng(2).integers(0, 2, 40), 25).astype(float)
    groups = np.repeat(np.arange(40), 25)
    both = np.stack([right, np.ones_like(right)], 1)
    together = resampled(sums_of(both, groups, 40), ratio)
    apart = resampled(sums_of(both, np.arange(1000), 1000), ratio)
    assert together.high - together.low > 4 * (apart.high - apart.low)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_a_tie_is_wrong_or_half_right_and_is_counted(write: Write) -> None:
    got = pairwise(read(write([pair(2, 1), pair(1, 1), pair(0, 1), pair(3, 1)])), "scores", [], None)
    assert (got.accuracy.value, got.half_credit.value, got.ties) == (0.5, 0.625, 1)


def test_pairs_name_the_better_completion_first(write: Write) -> None:
    got = pairwise(read(write([{"pairs": [[1, 0]], "scores": [1.0, 2.0]}])), "scores", [], None)
    assert got.accuracy.value == 1.0
    assert got.margins.mean == 1.0


def test_every_pair_of_ranks_counts_and_equal_ranks_make_none(write: Write) -> None:
    path = write([{"completions": ["a", "b", "c"], "rank": [0, 1, 1], "scores": [3.0, 4.0, 1.0]}])
    got = pairwise(read(path), "scores", [], None)
    assert (got.pairs, got.accuracy.value) == (2, 0.5)
    assert got.rankings
    assert (got.rankings.top.value, got.rankings.random) == (0.0, pytest.approx(1 / 3))


def test_the_best_of_four_shares_a_tie_at_the_top(write: Write) -> None:
    row = {"completions": list("abcd"), "pairs": [[0, 1], [0, 2], [0, 3]]}
    got = pairwise(read(write([{**row, "scores": [1, 1, 0, 0]}, {**row, "scores": [2, 1, 0, 0]}])), "scores", [], None)
    assert got.rankings
    assert (got.rankings.top.value, got.rankings.random) == (0.75, 0.25)


def test_votes_turn_a_pair_round_and_half_of_them_decide_nothing(write: Write) -> None:
    rows = [pair(1, 0, soft=[0.8]), pair(1, 0, soft=[0.2]), pair(1, 0, soft=[0.5])]
    got = pairwise(read(write(rows)), "scores", [], None)
    assert (got.pairs, got.undecided, got.accuracy.value) == (3, 1, 0.5)
    assert got.votes
    assert got.votes.accuracy.value == pytest.approx(0.5)
    assert got.votes.ceiling.value == pytest.approx(0.7)
    assert got.calibration.nll.value == pytest.approx(math.log(1 + math.e) - 0.5, abs=1e-9)


def test_the_order_of_rows_and_of_completions_changes_nothing(write: Write) -> None:
    random = np.random.default_rng(3)
    rows = [
        {"id": f"p{at}", "completions": ["short", "a longer one"], **pair(*random.standard_normal(2).tolist())}
        for at in range(30)
    ]
    turned = [
        {**row, "completions": row["completions"][::-1], "scores": row["scores"][::-1], "pairs": [[1, 0]]}
        for row in rows
    ]
    one, other = (
        report(read(write(some, name)), "scores", [], None, 0.0)
        for some, name in ((rows, "one.jsonl"), (turned[::-1], "other.jsonl"))
    )
    assert one.pairs == other.pairs


def test_two_files_are_compared_on_the_pairs_that_both_have(write: Write) -> None:
    rows = [pair(1, 0), pair(0, 1), pair(1, 1)]
    one, two = read(write(rows, "a.jsonl")), read(write([pair(2, 0), pair(2, 0), pair(0, 1), pair(1, 0)], "b.jsonl"))
    got = difference(one, two, "scores")
    assert got
    assert (got.pairs, got.turned, got.difference.value) == (3, 2, pytest.approx(1 / 6))
    assert difference(one, read(write([{"completions": ["x", "y"], **pair(1, 0)}], "c.jsonl")), "scores") is None


# --- calibration ------------------------------------------------------------------------------------------------------


def test_the_gap_that_a_student_recovers_is_measured_on_the_pairs_that_all_have(write: Write) -> None:
    def rows(right: int, count: int) -> list[dict[str, Any]]:
        return [{"id": f"{at:03}", **pair(1.0 if at < right else -1.0, 0.0)} for at in range(count)]

    weak, student, ceiling = (
        read(write(rows(right, count), f"{right}.jsonl")) for right, count in ((60, 100), (75, 120), (90, 100))
    )
    told = recovered(weak, student, ceiling, "scores")
    assert (told.weak, told.own, told.ceiling) == (0.6, 0.75, 0.9)
    assert told.pairs == told.prompts == 100
    assert told.recovered.value == pytest.approx(0.5)
    assert told.ahead.value == pytest.approx(0.15)
    # Of 30 pairs that the ceiling has right and the supervisor wrong, the student has 15: draws of them are binomial.
    assert (told.recovered.low, told.recovered.high) == pytest.approx((0.32, 0.68), abs=0.05)
    assert told.without == 0.0
    assert recovered(ceiling, student, ceiling, "scores").without == 1.0
    with pytest.raises(UserError, match="no pair in common"):
        recovered(weak, read(write([{"id": "z", **pair(1.0, 0.0)}], "other.jsonl")), ceiling, "scores")


def test_likelihood_is_that_of_the_formula() -> None:
    assert nll(flat(0.0, 2.0, -2.0), flat(1.0, 1.0, 1.0)) == pytest.approx([math.log(2), 0.126928, 2.126928], abs=1e-6)
    assert nll(flat(2.0), flat(0.25)) == pytest.approx([0.25 * 0.126928 + 0.75 * 2.126928], abs=1e-6)
    assert np.isfinite(nll(flat(1e9, -1e9), flat(1.0, 0.0))).all()


@settings(deadline=None)
@given(st.floats(0.2, 5.0))
def test_the_temperature_that_was_planted_is_found(planted: float) -> None:
    margins = np.linspace(-4, 4, 81)
    assert temperature(planted * margins, sigmoid(margins)) == pytest.approx(planted, rel=1e-6)


def test_scores_that_say_nothing_or_all_have_no_best_temperature() -> None:
    assert temperature(flat(1.0, -2.0), flat(0.0, 1.0)) is None
    assert temperature(flat(0.0, 0.0), flat(1.0, 1.0)) is None
    assert temperature(flat(1.0, 2.0), flat(1.0, 1.0)) == 0.0
    got = calibration(flat(1.0, 2.0), flat(1.0, 1.0), np.arange(2), 2, False)
    assert (got.nll_at, got.ece_at) == (pytest.approx(0.0, abs=1e-9), pytest.approx(0.0, abs=1e-9))


def test_calibration_does_not_depend_on_which_completion_is_named_first() -> None:
    margins, targets = flat(0.4, -1.2, 3.0), flat(1.0, 0.7, 0.5)
    one, other = folded(margins, targets), folded(-margins, 1 - targets)
    assert np.allclose(one, other)


def test_the_calibration_error_is_the_gap_weighted_by_pairs() -> None:
    sure, right = flat(0.72, 0.74, 0.98), flat(1.0, 0.0, 1.0)
    assert error(sure, right, by_width(sure)) == pytest.approx((2 * abs(0.5 - 0.73) + abs(1 - 0.98)) / 3)
    assert by_width(flat(0.5, 0.55, 1.0)).tolist() == [0, 1, 9]
    assert by_mass(np.linspace(0.5, 1, 30)).tolist() == np.repeat(np.arange(10), 3).tolist()
    assert len(set(by_mass(np.full(30, 0.7)))) == 1


def test_margins_that_are_log_odds_are_calibrated() -> None:
    random = np.random.default_rng(4)
    margins = random.normal(0.5, 1.5, 20_000)
    margins = np.where(random.random(20_000) < sigmoid(margins), margins, -margins)
    got = calibration(margins, np.ones(20_000), np.arange(20_000), 20_000, False)
    assert got.ece < 0.02
    assert got.temperature == pytest.approx(1.0, abs=0.06)


# --- length -----------------------------------------------------------------------------------------------------------


def test_accuracy_at_equal_length_is_free_of_what_length_does() -> None:
    random = np.random.default_rng(6)
    longer = random.normal(120, 100, 20_000)
    odds = 0.8 + 1.5 * np.tanh(longer / longer.std())
    right = (random.random(20_000) < sigmoid(odds)).astype(float)
    got, slope = controlled(right, longer, np.arange(20_000))
    assert right.mean() > 0.8
    assert got.value == pytest.approx(sigmoid(flat(0.8))[0], abs=0.02)
    assert got.low < got.value < got.high
    assert slope == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("right", [1.0, 0.0])
def test_accuracy_at_equal_length_stays_a_number_where_all_are_right_or_none(right: float) -> None:
    got, _ = controlled(np.full(20, right), np.linspace(-5, 9, 20), np.arange(20))
    assert got.value == pytest.approx(right, abs=0.02)
    assert np.isfinite([got.low, got.high]).all()


def test_the_longer_one_is_the_baseline_on_real_comparisons(write: Write) -> None:
    rows = [
        {"completions": [row["chosen"], row["rejected"]], "metadata": {"subset": row["subset"]}, **pair(0, 0)}
        for row in shared("hh_rlhf_train.jsonl")
    ]
    got = pairwise(read(write(rows)), "scores", ["subset"], None)
    assert got.lengths.longer_wins.value == pytest.approx(0.524, abs=5e-4)
    assert got.ties == got.pairs == 6801
    longer = {category.name: category.longer_wins for category in got.by["subset"]}
    # Helpful answers are longer, harmless ones shorter: pooled they cancel.
    assert longer["harmless-base"] < 0.5 < longer["helpful-base"]


# --- categories and sections ------------------------------------------------------------------------------------------


def test_categories_come_from_metadata_from_the_row_or_from_each_pair(write: Write) -> None:
    rows = [
        pair(1, 0, metadata={"kind": "easy"}, stratum=["old"]),
        pair(0, 1, metadata={"kind": "hard"}, stratum=["young"]),
        {**pair(1, 0), "pairs": [[0, 1], [1, 0]], "metadata": {"kind": "hard"}, "stratum": ["old", "young"]},
    ]
    got = report(read(write(rows)), "scores", ["kind"], None, 0.0).pairs
    assert got
    accuracy = {key: {it.name: it.accuracy.value for it in some} for key, some in got.by.items()}
    assert accuracy == {"kind": {"easy": 1.0, "hard": pytest.approx(1 / 3)}, "stratum": {"old": 1.0, "young": 0.0}}


def test_each_group_of_people_is_asked_for_its_own_scores_and_the_one_served_worst_is_told(write: Write) -> None:
    def row(at: int, stratum: str, north: float, south: float) -> dict[str, Any]:
        parts = [{"north": north, "south": south}, {"north": 0.0, "south": 0.0}]
        return {"id": f"{at:02}", "pairs": [[0, 1]], "stratum": [stratum], "score_parts": parts}

    rows = [row(at, "north", 2.0, -9.0) for at in range(12)]
    rows += [row(12 + at, "south", -9.0, 1.0 if at < 3 else -1.0) for at in range(4)]
    told = report(read(write(rows)), "score_parts.{stratum}", [], None, 0.0).pairs
    assert told is not None
    north, south = told.by["stratum"]
    assert (north.half_credit, south.half_credit) == (1.0, 0.75)
    assert (north.nll, south.nll) == pytest.approx(
        (math.log1p(math.exp(-2)), math.log1p(math.exp(-1)) * 0.75 + math.log1p(math.exp(1)) * 0.25)
    )
    assert south.ece == pytest.approx(abs(0.75 - 1 / (1 + math.exp(-1))))
    least = told.worst["stratum"]
    assert least.value == 0.75
    assert least.low < 0.5
    assert least.high == 1.0


def test_rewardbench_weighs_mathematics_as_all_code() -> None:
    accuracy = {subset: 0.5 for some in WEIGHTS.values() for subset in some}
    accuracy |= {"math-prm": 1.0, "mt-bench-easy": 1.0}
    got = rewardbench(accuracy)
    assert [section.name for section in got.sections] == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    scores = {section.name: section.accuracy for section in got.sections}
    assert scores["Reasoning"] == pytest.approx(0.75)
    assert scores["Chat"] == pytest.approx(0.5 + 0.5 * 28 / 358)
    assert got.mean == pytest.approx(sum(scores.values()) / 4)
    assert [sum(some.values()) for some in WEIGHTS.values()] == [358, 456, 740, 2 * 984]


def test_rewardbench_counts_only_what_is_there() -> None:
    got = rewardbench({"hep-go": 1.0, "math-prm": 0.0})
    assert [(section.name, section.accuracy) for section in got.sections] == [("Reasoning", 164 / (984 + 164))]
    assert len(got.lacking) == 21


def test_sections_weigh_categories_by_pairs_and_count_alike(write: Write) -> None:
    rows = [
        pair(1, 0, metadata={"subset": "a", "field": "x"}),
        pair(1, 0, metadata={"subset": "a", "field": "x"}),
        pair(0, 1, metadata={"subset": "b", "field": "x"}),
        pair(0, 1, metadata={"subset": "c", "field": "y"}),
    ]
    got = pairwise(read(write(rows)), "scores", ["subset"], "field").sections
    assert got
    assert [(it.name, it.accuracy) for it in got.sections] == [("x", pytest.approx(2 / 3)), ("y", 0.0)]
    assert got.mean == pytest.approx(1 / 3)


# --- against the libraries --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=8))
def test_tau_b_is_scipys(both: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = (flat(*some) for some in zip(*both, strict=True))
    got = tau_b(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert got is None
    else:
        assert got == pytest.approx(stats.kendalltau(one, other).statistic)


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"pairs": [[0, 2]], "scores": [1, 2]}, r'"pairs" has \[0, 2\]'),
        ({"pairs": [[0, 0]], "scores": [1, 2]}, r'"pairs" has \[0, 0\]'),
        ({"pairs": [[0, 1]], "scores": [1]}, '"scores" has 1 entries for 2 completions'),
        ({"pairs": [[0, 1]], "scores": [1, None]}, '"scores", entry 2 is null, not a finite number'),
        ({"pairs": [[0, 1]]}, 'no "scores" in this row'),
        ({"pairs": [[0, 1]], "scores": [1, 2], "soft": [1.5]}, '"soft", entry 1 is 1.5, not a share of votes'),
        ({"pairs": [[0, 1]], "scores": [1, 2], "soft": []}, '"soft" has 0 entries for 1 pairs'),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(row: dict[str, Any], said: str, write: Write) -> None:
    path: Path = write([pair(1, 0, soft=[1.0]), row])
    with pytest.raises(UserError, match=said) as wrong:
        pairs_of(read(path), "scores", [])
    assert wrong.value.problems[0].where == f"{path}:2"


def test_all_rows_that_are_wrong_are_told_at_once(write: Write) -> None:
    path = write([pair(1, 0), *({"scores": [1], "pairs": [[0, 1]]} for _ in range(30))])
    with pytest.raises(UserError) as wrong:
        pairs_of(read(path), "scores", [])
    assert len(wrong.value.problems) == 21
    assert "10 rows more" in wrong.value.problems[-1].what

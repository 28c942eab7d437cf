"""Right and wrong completions, and first wrong steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from truing.errors import UserError
from truing_evaluate.labelled import auroc, labelled, powers, precision
from truing_evaluate.reporting import report
from truing_evaluate.rows import read
from truing_evaluate.shapes import Steps
from truing_evaluate.steps import NONE, chance, harmonic, held, measured, part, ranked

from .conftest import Write, shared

BOTH = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 1)), min_size=2, max_size=20).filter(
    lambda some: len({label for _, label in some}) == 2
)


@settings(deadline=None)
@given(BOTH)
def test_auroc_is_the_share_of_pairs_in_order_and_that_of_scikit_learn(both: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = (np.array(some, dtype=float) for some in zip(*both, strict=True))
    pairs = [(np.sign(one - other) + 1) / 2 for one in scores[labels == 1] for other in scores[labels == 0]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert precision(scores, labels) == pytest.approx(metrics.average_precision_score(labels, scores))


def test_a_completion_that_is_drawn_twice_counts_twice() -> None:
    scores, labels = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0])
    twice = auroc(np.array([0.0, 0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 0.0]))
    assert auroc(scores, labels, np.array([2.0, 1.0, 1.0])) == pytest.approx(twice)


def test_prompts_apart_a_score_of_the_prompt_alone_is_worth_nothing() -> None:
    # Easy prompts score high whatever is answered: over all completions that looks like skill.
    scores = [np.full(4, 2.0), np.full(4, -2.0)]
    labels = [np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])]
    got = labelled(scores, labels)
    assert got.auroc.value == 0.75
    assert got.within
    assert got.within.value == 0.5
    assert [best.truth.value for best in got.best] == [0.5, 0.5, 0.5]
    assert [best.oracle for best in got.best] == pytest.approx([0.5, 0.75, 1.0])


def test_n_goes_by_powers_of_two_to_all() -> None:
    assert powers(1) == [1]
    assert powers(6) == [1, 2, 4, 6]
    assert powers(8) == [1, 2, 4, 8]


def test_a_label_is_one_or_nought(write: Write) -> None:
    path = write([{"scores": [1, 2], "label": [0, 2]}])
    with pytest.raises(UserError, match='"label" has 2'):
        report(read(path), "scores", [], None, 0.0)


# --- steps ------------------------------------------------------------------------------------------------------------


def of_steps(write: Write, *rows: dict[str, Any], threshold: float = 0.5) -> Steps:
    found = report(read(write([{"completions": ["s"], **row} for row in rows])), "scores", [], None, threshold).steps
    assert found
    return found


def test_exactly_the_first_wrong_step_counts(write: Write) -> None:
    wrong = [[1, 0], [1, 0], [1, 0]]
    scores = [[0.9, 0.1], [0.1, 0.1], [0.9, 0.9]]
    rows = [{"step_scores": [some], "step_labels": [said]} for some, said in zip(scores, wrong, strict=True)]
    right = [
        {"step_scores": [[0.9, 0.9]], "step_labels": [[1, 1]]},
        {"step_scores": [[0.9, 0.2]], "step_labels": [[1, 1]]},
    ]
    got = of_steps(write, *rows, *right)
    assert (got.solutions, got.erroneous, got.steps) == (5, 3, 10)
    assert (got.at.erroneous.value, got.at.correct.value) == (pytest.approx(1 / 3), 0.5)
    assert got.at.f1.value == pytest.approx(2 / 3 * 0.5 / (1 / 3 + 0.5))


def test_flagging_nothing_or_everything_is_worth_nothing(write: Write) -> None:
    rows = [
        {"step_scores": [[0.2, 0.4]], "step_labels": [[1, 0]]},
        {"step_scores": [[0.3, 0.6]], "step_labels": [[1, 1]]},
    ]
    for threshold in (0.0, 1.0):
        assert of_steps(write, *rows, threshold=threshold).at.f1.value == 0.0
    best = of_steps(write, *rows).best
    assert best.f1.value >= 0.0


def test_solutions_of_which_it_is_not_known_what_is_wrong_are_left_out(write: Write) -> None:
    got = of_steps(
        write,
        {"step_scores": [[0.9, 0.1, 0.5]], "step_labels": [[1, 0]]},  # behind the first wrong step nobody says
        {"step_scores": [[0.9, 0.1, 0.5]], "step_labels": [[1, 1]]},  # is the third one right?
        {"step_scores": [[0.9, 0.1]], "step_labels": [[None, 0]]},  # and the first one here?
        {"step_scores": [[0.9, 0.8]], "step_labels": [[1, 1]]},
    )
    assert (got.solutions, got.unknown, got.at.f1.value) == (2, 2, 1.0)


def test_steps_that_a_phase_wrote_stand_where_step_index_says(write: Write) -> None:
    judged = {"steps": [["a", "b", "c"]], "step_index": [[0, 1]], "step_scores": [[0.9, 0.1]], "step_labels": [[1, 0]]}
    later = {"steps": [["a", "b"]], "step_index": [[1]], "step_scores": [[0.1]], "step_labels": [[0]]}
    got = of_steps(write, judged, later, {"step_scores": [[0.9]], "step_labels": [[1]]})
    assert (got.solutions, got.unknown, got.at.f1.value) == (2, 1, 1.0)


def test_several_solutions_of_a_prompt_are_one_prompt(write: Write) -> None:
    one = {"completions": ["s", "t"], "step_scores": [[0.1], [0.9, 0.9]], "step_labels": [[0], [1, 1]]}
    got = of_steps(write, one)
    assert (got.solutions, got.at.f1.value) == (2, 1.0)


def test_the_floor_is_what_random_flags_get() -> None:
    random = np.random.default_rng(7)
    first = np.array([0, 1, 2, NONE, NONE, 4])
    counts = np.array([3, 4, 3, 2, 5, 6])
    floor, rate = chance(first, counts)
    found = np.zeros(6)
    for _ in range(20_000):
        flags = [np.flatnonzero(random.random(count) < rate) for count in counts]
        found += np.array([some[0] if len(some) else NONE for some in flags]) == first
    wrong, right = found[first != NONE].mean() / 20_000, found[first == NONE].mean() / 20_000
    assert floor == pytest.approx(2 * wrong * right / (wrong + right), abs=0.005)
    assert chance(np.array([1, 2]), np.array([3, 3])) == (0.0, 0.0)


def test_a_held_out_threshold_is_chosen_without_the_solutions_it_is_used_on() -> None:
    # Two thresholds, each of which is right on one part alone.
    first, groups = np.array([0, NONE, 0, NONE]), np.arange(4)
    hits = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    apart = held(hits, first, np.array([0, 0, 1, 1]), groups)
    assert apart is not None
    assert (apart.value, apart.low, apart.high) == (0.0, 0.0, 0.0)
    assert held(hits, first, np.array([0, 0, 0, 1]), groups) is None
    assert {part(str(at)) for at in range(99)} == set(range(10))


def test_what_is_held_out_has_the_interval_of_a_measure_at_one_threshold() -> None:
    wrong = np.array([True] * 30 + [False] * 20)
    first, groups = np.where(wrong, 0, NONE), np.arange(50)
    hits = np.array([[at % 3 == 0 for at in range(50)]], dtype=float)
    told = held(hits, first, groups % 10, groups)
    assert told is not None
    assert told == measured(hits[0], wrong, groups)
    assert told.value == pytest.approx(harmonic(hits[0][wrong], hits[0][~wrong]))
    assert told.low < told.value < told.high


def test_a_product_goes_with_the_number_of_steps_where_a_least_one_does_not(write: Write) -> None:
    rows = [{"step_scores": [[0.9] * count], "step_labels": [[1] * count]} for count in (2, 3, 4)]
    wrong = {"step_scores": [[0.9, 0.5]], "step_labels": [[1, 0]]}
    told = {it.how: it for it in of_steps(write, *rows, wrong).aggregates}
    assert {how: it.auroc for how, it in told.items()} == {"min": 1.0, "product": 1.0, "mean": 1.0, "last": 1.0}
    alone = {it.how: it.length for it in of_steps(write, *rows, {**rows[0], "step_labels": [[1, 0]]}).aggregates}
    assert alone["product"] == pytest.approx(-1.0)
    assert alone["min"] is None


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranked(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_a_model_that_knows_finds_all_on_real_solutions(write: Write) -> None:
    rows = [
        {
            "id": row["id"],
            "completions": ["\n".join(row["steps"])],
            "step_scores": [row["labels"]],
            "step_labels": [[int(it >= 0) for it in row["labels"]]],
        }
        for row in shared("prm800k_phase1_train_solutions.jsonl")
        if row["labels"] and all(label is not None for label in row["labels"])
    ]
    got = of_steps(write, *rows, threshold=0.0)
    assert got.at.f1.value == 1.0
    assert 0.05 < got.floor < 0.4

"""What is said of comparison data: coefficients of agreement, models of annotators, biases, copies and leaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from truing.cli import main
from truing.errors import UserError
from truing_data.agreement.coefficients import (
    against_the_rest,
    cohen,
    fleiss,
    krippendorff,
    observed,
    unanimous,
    wilson,
)
from truing_data.agreement.columns import Columns
from truing_data.agreement.dawid_skene import dawid_skene
from truing_data.agreement.position import intercept, swapped
from truing_data.agreement.reading import read
from truing_data.agreement.report import reported
from truing_data.agreement.shapes import Report
from truing_data.agreement.table import Votes, votes_of
from truing_data.agreement.texts import plain

QUICK = settings(deadline=None, max_examples=60, database=None)
SHARED = Path(__file__).parents[3] / "shared/data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")

FLEISS = """
0 0 0 0 14 / 0 2 6 4 2 / 0 0 3 5 6 / 0 3 9 2 0 / 2 2 8 1 1 / 7 7 0 0 0 / 3 2 6 3 0 / 2 5 3 2 2 / 6 5 2 1 0 / 0 2 2 3 7
"""
"""A worked example that is printed everywhere: 10 items, 14 votes each, 5 labels, kappa 0.210."""

ALPHA = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
"""The example of Krippendorff's own paper (2011, section C): 4 coders, 12 units, labels 1 to 5, absent ones dotted."""

ANAESTHETISTS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111
1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121
1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""
"""Dawid and Skene's table 1: 45 patients, what observer 1 said three times, and observers 2 to 5 once."""


def table(text: str) -> np.ndarray:
    return np.array([[int(count) for count in row.split()] for row in text.split("/")])


def votes(*items: str, labels: str = "ABC") -> Votes:
    """Items as the labels that annotators 0, 1, 2, ... gave; a dot is an absent vote."""
    return votes_of(
        [[(str(who), label) for who, label in enumerate(item) if label != "."] for item in items], list(labels)
    )


def write(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def report_on(path: str, columns: Columns | None = None, where: Mapping[str, Any] | None = None) -> Report:
    return reported(read(path, columns or Columns(), where or {}, False))


def refused(path: str, columns: Columns | None = None) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(path, columns or Columns(), {}, False)
    return [str(problem) for problem in caught.value.problems]


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["data", "report", *words])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


# Coefficients of agreement

labelled = st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=12)


def test_cohens_kappa_of_a_printed_example() -> None:
    one, other = np.repeat([0, 0, 1, 1], [20, 5, 10, 15]), np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert observed(one, other) == 0.7
    assert cohen(one, other, 2) == pytest.approx(0.4)


@QUICK
@given(labelled)
def test_cohens_kappa_is_that_of_scikit_learn(items: list[list[int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    one, other = np.array(items)[:, 0], np.array(items)[:, 1]
    value = cohen(one, other, 3)
    if value is not None:
        assert value == pytest.approx(metrics.cohen_kappa_score(one, other, labels=[0, 1, 2]), abs=1e-9)


def test_fleiss_kappa_of_a_printed_example() -> None:
    assert fleiss(table(FLEISS)) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_is_refused_where_items_have_different_numbers_of_votes() -> None:
    with pytest.raises(ValueError, match="same number of votes"):
        fleiss(np.array([[2, 1], [1, 1]]))


def test_alpha_of_krippendorffs_own_example() -> None:
    given = [[row[at] for row in ALPHA] for at in range(12)]
    counts = votes(*("".join(item) for item in given), labels="12345").counts()
    assert krippendorff(counts, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff(counts, "ordinal") == pytest.approx(0.815, abs=5e-4)


@QUICK
@given(labelled)
def test_alpha_and_fleiss_kappa_differ_by_the_size_of_the_sample_alone(items: list[list[int]]) -> None:
    counts = votes(*("".join("ABC"[label] for label in item) for item in items)).counts()
    kappa, alpha = fleiss(counts), krippendorff(counts, "nominal")
    assert (kappa is None) == (alpha is None)
    if kappa is not None:
        assert alpha == pytest.approx(1 - (1 - kappa) * (1 - 1 / counts.sum()), abs=1e-9)


def test_full_agreement_is_one_and_agreement_on_a_single_label_says_nothing() -> None:
    whole = votes("AAA", "BBB", "CCC").counts()
    assert fleiss(whole) == krippendorff(whole, "nominal") == krippendorff(whole, "ordinal") == 1
    single = votes("AAA", "AAA").counts()
    assert (fleiss(single), krippendorff(single, "nominal")) == (None, None)
    assert cohen(np.zeros(5, int), np.zeros(5, int), 2) is None


def test_neighbours_on_a_scale_are_closer_than_its_ends_for_ordinal_alpha_alone() -> None:
    near, far = votes("AB", "BA", "CC", "AA", "BB").counts(), votes("AC", "CA", "CC", "AA", "BB").counts()
    ordinal = [krippendorff(counts, "ordinal") or 0.0 for counts in (near, far)]
    nominal = [krippendorff(counts, "nominal") or 0.0 for counts in (near, far)]
    assert ordinal[0] - ordinal[1] > 0.3
    assert abs(nominal[0] - nominal[1]) < 0.06


@QUICK
@given(labelled, st.randoms(use_true_random=False))
def test_no_coefficient_minds_the_order_of_items_or_annotators(items: list[list[int]], chance: Any) -> None:
    written = ["".join("ABC"[label] for label in item) for item in items]
    order, people = list(range(len(items))), list(range(4))
    chance.shuffle(order)
    chance.shuffle(people)
    other = votes(*("".join(written[at][who] for who in people) for at in order))
    one = votes(*written)
    assert krippendorff(one.counts(), "ordinal") == pytest.approx(krippendorff(other.counts(), "ordinal"))
    assert against_the_rest(one).right.sum() == against_the_rest(other).right.sum()
    fitted, again = dawid_skene(one), dawid_skene(other)
    assert again.posterior == pytest.approx(fitted.posterior[order], abs=1e-4)
    assert again.accuracy()[np.argsort(np.array(people))] == pytest.approx(fitted.accuracy(), abs=1e-4)


# The ceiling: votes against the majority of the others


def test_a_vote_is_not_part_of_the_majority_it_is_held_against() -> None:
    judged = against_the_rest(votes("AAB"))
    assert judged.vote.tolist() == [2]  # for either A, the others are one A and one B
    assert judged.right.tolist() == [0]
    assert (judged.tied, judged.alone) == (2, 0)


def test_votes_whose_others_are_tied_or_absent_are_counted_and_not_judged() -> None:
    judged = against_the_rest(votes("A..", "AB.", "AAA"))
    assert (judged.right.tolist(), judged.tied, judged.alone) == ([0, 0, 1, 1, 1], 0, 1)


def test_dropping_votes_for_a_tie_raises_the_ceiling() -> None:
    some = votes("AABA", "ABBA", "CCBB", "ABCB", "CBCC")
    decided = some.only(["A", "C"])
    assert decided.items == some.items
    assert decided.counts().tolist() == some.counts()[:, [0, 2]].tolist()
    assert against_the_rest(decided).right.mean() > against_the_rest(some).right.mean()


def test_unanimity_is_of_items_with_two_votes_or_more() -> None:
    assert unanimous(votes("AAA", "A..", "AB.", "...").counts()) == (1, 2)


@pytest.mark.parametrize(("count", "of"), [(0, 10), (5, 10), (10, 10), (1, 3), (270, 1000)])
def test_an_interval_holds_its_share_and_ends_where_a_score_test_does(count: int, of: int) -> None:
    low, high = wilson(count, of)
    share = count / of
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(1.959964 * (end * (1 - end) / of) ** 0.5)


# Dawid and Skene


def test_the_model_finds_what_its_paper_prints() -> None:
    given = [[("1112345"[at], label) for at, label in enumerate(row)] for row in ANAESTHETISTS.split()]
    fitted = dawid_skene(votes_of(given, list("1234")), right=1e-6, wrong=1e-6, frequent=1e-6, tolerance=1e-10)
    assert fitted.converged
    assert fitted.frequency == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=5e-3)
    observer = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    assert np.abs(fitted.confusion[0] - np.array(observer)).max() < 6e-3


def planted(
    chance: np.random.Generator, items: int, confusions: Sequence[np.ndarray], frequency: Sequence[float]
) -> tuple[Votes, np.ndarray]:
    """Votes of annotators with known confusions on items with known labels."""
    truth = chance.choice(len(frequency), items, p=frequency)
    said = np.stack([[chance.choice(len(frequency), p=confusion[true]) for true in truth] for confusion in confusions])
    labels = "ABC"[: len(frequency)]
    return votes(*("".join(labels[label] for label in item) for item in said.T), labels=labels), truth


def test_planted_annotators_are_found_and_beat_the_majority() -> None:
    chance = np.random.default_rng(1)
    good = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]])
    lazy = np.array([[0.1, 0.8, 0.1]] * 3)
    contrary = good[[2, 1, 0]]
    confusions = [good, good, good, lazy, lazy, contrary]
    data, truth = planted(chance, 1500, confusions, [0.45, 0.1, 0.45])
    fitted = dawid_skene(data)
    assert fitted.converged
    assert fitted.frequency == pytest.approx([0.45, 0.1, 0.45], abs=0.04)
    for annotator, confusion in enumerate(confusions):
        assert np.abs(fitted.confusion[annotator] - confusion)[[0, 2]].max() < 0.06
    right = (fitted.posterior.argmax(1) == truth).mean()
    assert right > (data.counts().argmax(1) == truth).mean() + 0.1
    believed = fitted.posterior.max(1)
    assert believed.mean() == pytest.approx(right, abs=0.02), "it is as sure as it is right"


def test_an_annotator_who_favours_what_is_shown_first_is_seen_through() -> None:
    chance = np.random.default_rng(2)
    fair, biased = np.array([[0.8, 0.2], [0.2, 0.8]]), np.array([[0.95, 0.05], [0.6, 0.4]])
    data, truth = planted(chance, 2000, [fair, fair, biased, biased, biased], [0.5, 0.5])
    fitted = dawid_skene(data)
    assert np.abs(fitted.confusion[2] - biased).max() < 0.08
    assert fitted.frequency == pytest.approx([0.5, 0.5], abs=0.06)
    majority = data.counts().argmax(1)
    assert (majority == 0).mean() > 0.6
    assert (fitted.posterior.argmax(1) == truth).mean() > (majority == truth).mean() + 0.02


@QUICK
@given(labelled, st.floats(0.1, 5), st.floats(0.1, 5))
def test_every_round_of_the_fit_makes_the_posterior_more_probable(
    items: list[list[int]], right: float, wrong: float
) -> None:
    data = votes(*("".join("ABC."[label] for label in item) for item in items))
    fitted = dawid_skene(data, right=right, wrong=wrong)
    assert (np.diff(fitted.objective) > -1e-9).all()
    assert fitted.posterior.sum(1) == pytest.approx(1)
    assert fitted.confusion.sum(2) == pytest.approx(1)


def test_somebody_with_one_vote_is_thought_to_be_like_the_prior() -> None:
    given = [[(str(who), "A" if item % 2 else "B") for who in range(3)] for item in range(40)]
    given[0].append(("stranger", "A"))
    fitted = dawid_skene(votes_of(given, ["A", "B"]), right=2, wrong=1)
    assert fitted.accuracy()[:3].min() > 0.9
    assert fitted.accuracy()[3] == pytest.approx((2 / 3 + 2 / 4) / 2, abs=0.02)


# Position


def test_without_lengths_the_intercept_is_the_log_odds_of_the_share() -> None:
    found = intercept(np.array([1.0, 1, 1, 0]), np.ones(4))
    assert found is not None
    assert found.value == pytest.approx(np.log(3))
    assert found.error == pytest.approx((1 / 3 + 1 / 1) ** 0.5)


def test_an_item_counts_once_however_many_votes_it_has() -> None:
    won, cast = np.array([1.0, 0, 1, 1]), np.ones(4)
    one, tenfold = intercept(won, cast), intercept(10 * won, 10 * cast)
    assert one is not None
    assert tenfold is not None
    assert tenfold == pytest.approx(one)


def test_a_planted_bias_is_told_apart_from_a_liking_for_length() -> None:
    chance = np.random.default_rng(3)
    longer = chance.normal(40, 50, 20000)  # what is shown first happens to be longer, too
    first = (chance.random(20000) < 1 / (1 + np.exp(-(0.4 + longer / 50)))).astype(float)
    apart, together = intercept(first, np.ones(20000), longer), intercept(first, np.ones(20000))
    assert apart is not None
    assert together is not None
    assert apart.value == pytest.approx(0.4, abs=3 * apart.error)
    assert together.value > 0.8


def test_answers_shown_both_ways_give_the_bias_whichever_is_better() -> None:
    chance = np.random.default_rng(4)
    better = chance.normal(0, 3, 4000)

    def cast(log_odds: np.ndarray) -> np.ndarray:
        wins = chance.binomial(3, 1 / (1 + np.exp(-log_odds)))
        return np.stack([wins, 3 - wins], axis=1)

    found = swapped(np.stack([cast(better + 0.5), cast(better - 0.5)], axis=1).astype(float))
    assert found is not None
    assert found.value == pytest.approx(0.5, abs=3 * found.error)
    assert found.error < 0.05


def test_of_single_votes_both_ways_only_those_that_follow_the_order_count() -> None:
    firsts, seconds, same = ([[1, 0], [0, 1]],) * 6, ([[0, 1], [1, 0]],) * 2, ([[1, 0], [1, 0]],) * 50
    found = swapped(np.array([*firsts, *seconds, *same], float))
    assert found is not None
    assert found.value == pytest.approx(np.log(6 / 2) / 2)
    assert found.error == pytest.approx((1 / 6 + 1 / 2) ** 0.5 / 2)
    assert swapped(np.array(same, float)) is None


# A file and its report

VOTED = {"question": "Why?", "a1": "It is so.", "a2": "It is not.", "votes": [[7, "a1"], [8, "a1"], [9, "equal"]]}


def test_columns_are_guessed_from_their_names_and_the_guess_is_told(tmp_path: Path) -> None:
    told = report_on(write(tmp_path / "a.jsonl", VOTED, VOTED))
    assert told.guesses == ["the two answers are a1 and a2", "votes are votes", "prompt is question"]
    assert told.agreement is not None
    assert told.agreement.labels == {"first": 4, "tie": 2, "second": 0}


def test_a_column_that_is_named_is_not_guessed(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a b", "rejected": "a", "mine": "x y", "other": "x", "winner": "second"}
    told = report_on(write(tmp_path / "a.jsonl", row), Columns(first="mine", second="other", votes=["winner"]))
    assert told.guesses == ["prompt is prompt"]
    assert told.lengths is not None
    assert told.lengths.longer_wins.count == 0


@pytest.mark.parametrize("written", [[0, 1, 2], ["tie", "first", "second"], ["a", "b", "neither"], [0.0, 1.0, 2.0]])
def test_labels_mean_sides_where_that_is_plain(tmp_path: Path, written: list[Any]) -> None:
    rows = [{"response1": "x y", "response2": "z", "vote": label} for label in written]
    told = report_on(write(tmp_path / "a.jsonl", *rows))
    assert told.agreement is not None
    assert told.agreement.labels == {"first": 1, "tie": 1, "second": 1}


def test_zero_and_one_may_mean_two_things_and_are_asked_about(tmp_path: Path) -> None:
    rows = [{"response1": "x", "response2": "y", "votes": [label]} for label in (1, 0)]
    path = write(tmp_path / "a.jsonl", *rows)
    (problem,) = refused(path)
    assert problem.startswith(f'{path}:2  which answer are these votes for: "0", "1"?')
    assert "--favours 0=... --favours 1=..., each first, second or tie" in problem
    told = report_on(path, Columns(favours={"0": "first", "1": "second"}))
    assert told.agreement is not None
    assert told.agreement.labels == {"first": 1, "tie": 0, "second": 1}


def test_every_row_that_is_no_use_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [VOTED, {**VOTED, "votes": [[7, "a1"], [7, "a2"]]}, {**VOTED, "a2": None}, {**VOTED, "votes": [[1, 2, 3]]}]
    path = write(tmp_path / "a.jsonl", *rows)
    problems = refused(path)
    assert [problem.partition("\n")[0] for problem in problems] == [
        f'{path}:2  annotator "7" votes twice',
        f'{path}:3  "a2" is no text',
        f'{path}:4  "votes", vote 1 is [1, 2, 3]',
        f"{path}  3 of 4 rows are unusable",
    ]
    told = reported(read(path, Columns(), {}, True))
    assert (told.rows, told.unusable, told.comparisons) == (4, 3, 1)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns(votes=["vots"]), 'no row has a column "vots"\n'),
        (Columns(first="a1"), "one column of two answers is named"),
        (Columns(completions="a1"), "completions need their order"),
    ],
)
def test_columns_that_are_not_there_or_not_enough_are_refused(tmp_path: Path, columns: Columns, said: str) -> None:
    assert any(said in problem for problem in refused(write(tmp_path / "a.jsonl", VOTED), columns))


def test_a_file_without_comparisons_says_what_columns_it_has(tmp_path: Path) -> None:
    (problem,) = refused(write(tmp_path / "a.jsonl", {"text": "x", "more": 1}))
    assert "nothing here looks like a comparison" in problem
    assert "columns: text, more" in problem


def test_copies_contradictions_and_equal_answers_are_counted(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "Yes, it is", "rejected": "No"}
    rows = [
        pair,
        pair,
        {**pair, "chosen": "No", "rejected": "Yes, it is"},
        {**pair, "chosen": "No"},
        {**pair, "chosen": "no!"},
        {**pair, "prompt": "another", "rejected": " "},
    ]
    told = report_on(write(tmp_path / "a.jsonl", *rows))
    copies = told.copies
    assert (copies.equal, copies.alike, copies.exact, copies.turned, copies.contradictions) == (1, 1, 1, 1, 1)
    assert (copies.empty, copies.prompts, copies.most) == (1, 2, 5)
    assert any("contradict" in warning for warning in told.warnings)
    assert any("pairs of equal answers" in warning for warning in told.warnings)


def test_a_tie_contradicts_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "a1": "x", "a2": "y", "votes": given} for given in (["a1"], ["tie"], ["a1"], ["a2"])]
    assert report_on(write(tmp_path / "a.jsonl", *rows)).copies.contradictions == 1
    assert report_on(write(tmp_path / "b.jsonl", *rows[1:3])).copies.contradictions == 0


def test_longer_wins_counts_decided_pairs_of_different_length_by_who_won(tmp_path: Path) -> None:
    rows = [
        {"a1": "long one", "a2": "short", "votes": ["a1", "a1", "a2"]},
        {"a1": "long one", "a2": "short", "votes": ["a2", "a1", "a2"]},
        {"a1": "short", "a2": "long one", "votes": ["a2"]},
        {"a1": "four", "a2": "five", "votes": ["a2"]},
        {"a1": "long one", "a2": "short", "votes": ["a1", "a2"]},
    ]
    told = report_on(write(tmp_path / "a.jsonl", *rows))
    assert told.ties == 1
    assert told.lengths is not None
    assert (told.lengths.longer_wins.count, told.lengths.longer_wins.of, told.lengths.alike) == (2, 3, 1)


def test_rankings_are_all_their_pairs_with_ties(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["a", "b b", "c c c"], "rank": [1, 2, 2]}
    path = write(tmp_path / "a.jsonl", row)
    told = report_on(path)
    assert (told.rows, told.comparisons, told.ties) == (1, 3, 1)
    assert told.lengths is not None
    assert (told.lengths.longer_wins.count, told.lengths.longer_wins.of) == (0, 2)
    turned = report_on(path, Columns(completions="completions", score="rank"))
    assert turned.lengths is not None
    assert turned.lengths.longer_wins.count == 2


def test_a_strength_says_who_won_and_by_how_much(tmp_path: Path) -> None:
    rows = [{"first": "x y", "second": "z", "by": value} for value in (3, -1, 0, -1)]
    told = report_on(write(tmp_path / "a.jsonl", *rows), Columns(strength="by"))
    assert told.strength is not None
    assert (told.strength.mean, told.strength.values) == (1.25, {"-1": 2, "0": 1, "3": 1})
    assert told.ties == 1
    assert told.lengths is not None
    assert told.lengths.longer_wins.share == pytest.approx(1 / 3)


def test_labels_of_several_annotators_need_no_answers(tmp_path: Path) -> None:
    rows = [{"annotation_1": one, "annotation_2": other} for one, other in (("bad", "bad"), ("good", "fair"))]
    path = write(tmp_path / "a.jsonl", *rows)
    told = report_on(path).agreement
    assert told is not None
    assert told.labels == {"bad": 2, "fair": 1, "good": 1}
    assert told.ordinal is None, "words have no order of their own"
    ordered = report_on(path, Columns(scale=["bad", "fair", "good"])).agreement
    assert ordered is not None
    assert ordered.ordinal is not None
    assert ordered.nominal == told.nominal
    assert "labels that are not on the scale: good" in refused(path, Columns(scale=["bad", "fair"]))[0]


def test_rows_by_one_annotator_each_are_one_item_whichever_way_round(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "x y", "rejected": "z"}
    turned = {"prompt": "p", "chosen": "z", "rejected": "x y"}
    rows = [{**pair, "who": 1}, {**turned, "who": 2}, {**pair, "who": 3}, {**pair, "prompt": "q", "who": 1}]
    told = read(write(tmp_path / "a.jsonl", *rows), Columns(annotator="who"), {}, False)
    assert [list(map(tuple, votes)) for votes in told.votes] == [
        [("1", "first"), ("2", "second"), ("3", "first")],
        [("1", "first")],
    ]
    assert told.places == [f"{tmp_path / 'a.jsonl'}:1", f"{tmp_path / 'a.jsonl'}:4"]
    agreement = reported(told).agreement
    assert agreement is not None
    assert (agreement.items, agreement.per_item) == (2, {1: 1, 3: 1})


def test_an_item_may_have_a_name_and_nobody_votes_on_it_twice(tmp_path: Path) -> None:
    rows = [
        {"label": label, "who": who, "what": "x"} for who, label in (("ann", "bad"), ("bo", "good"), ("ann", "bad"))
    ]
    path, columns = write(tmp_path / "a.jsonl", *rows), Columns(votes=["label"], annotator="who", item="what")
    assert 'annotator "ann" votes on this twice' in refused(path, columns)[0]
    told = read(path, columns, {}, True)
    assert (told.votes, told.unusable) == ([[("ann", "bad"), ("bo", "good")]], 1)
    assert "--annotator names who" in refused(path, Columns(votes=["label"], item="what"))[0]


def test_which_answer_was_shown_first_may_stand_in_a_column(tmp_path: Path) -> None:
    rows = [
        {"chosen": "x y", "rejected": "z", "order": "chosen" if at % 4 else "rejected", "id": at} for at in range(40)
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    assert report_on(path).position is None
    told = report_on(path, Columns(order="order")).position
    assert told is not None
    assert not told.assumed
    assert (told.first.count, told.first.of) == (30, 40)
    assert told.overall is not None
    assert told.overall.value == pytest.approx(np.log(3))


def test_answers_shown_both_ways_are_found_whatever_column_they_are_in(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{at}", "a1": one, "a2": other, "votes": ["a1"] if at < 6 or kept else ["a2"]}
        for at in range(8)
        for one, other, kept in (("x y", "z w", at < 6), ("z w", "x y", False))
    ]
    told = report_on(write(tmp_path / "a.jsonl", *rows)).position
    assert told is not None
    assert told.swapped == 8
    assert told.consistent is not None
    assert told.consistent.count == 0
    assert msgspec.json.decode(msgspec.json.encode(told))["consistent"]["of"] == 8
    assert told.paired is not None
    assert told.paired.value == pytest.approx(np.log(6 / 2) / 2)


def test_a_column_may_say_which_way_round_answers_were_shown(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"p{at}",
            "a1": "x y",
            "a2": "z w",
            "votes": [seen if at < 6 else {"a1": "a2", "a2": "a1"}[seen]],
            "o": seen,
        }
        for at in range(8)
        for seen in ("a1", "a2")
    ]
    told = report_on(write(tmp_path / "a.jsonl", *rows), Columns(order="o")).position
    assert told is not None
    assert (told.swapped, told.first.count, told.first.of) == (8, 12, 16)
    assert told.paired is not None
    assert told.paired.value == pytest.approx(np.log(6 / 2) / 2)


def test_what_a_holdout_shares_is_found_whatever_its_case_and_signs(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    train = [
        {"prompt": "Why, though?", "chosen": "a b", "rejected": "c"},
        {"prompt": f"{words} and so on", "chosen": "d", "rejected": "e"},
    ]
    held = [
        {"prompt": "why though", "chosen": "C", "rejected": "A, b."},
        {"prompt": f"Then: {words}", "chosen": "f", "rejected": "g"},
        {"prompt": "something else", "chosen": "h", "rejected": "i"},
    ]
    here, other = (
        read(write(tmp_path / name, *rows), Columns(), {}, False) for name, rows in (("a", train), ("b", held))
    )
    told = reported(here, other).overlap
    assert told is not None
    shares = (told.prompts, told.runs, told.answers, told.pairs)
    assert [(share.count, share.of) for share in shares if share] == [(1, 3), (1, 3), (2, 6), (1, 3)]
    assert told.openings is None


def test_first_turns_are_compared_where_prompts_are_conversations(tmp_path: Path) -> None:
    def row(opening: str, last: str) -> dict[str, Any]:
        turns = [("user", opening), ("assistant", "Go on."), ("user", last)]
        return {"messages": [{"role": who, "content": text} for who, text in turns], "chosen": "a", "rejected": "b"}

    here = read(write(tmp_path / "a", row("Hi", "one"), row("Ho", "two")), Columns(), {}, False)
    other = read(write(tmp_path / "b", row("hi!", "three"), row("Hu", "two")), Columns(), {}, False, judged=False)
    told = reported(here, other).overlap
    assert told is not None
    assert told.openings is not None
    assert told.prompts is not None
    assert (told.openings.count, told.prompts.count) == (1, 0)


def test_a_file_of_prompts_alone_may_be_what_nothing_is_shared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = write(tmp_path / "b.jsonl", {"question": "why", "votes": 3}, {"question": "When?", "votes": 4})
    status, said, _ = called(capsys, write(tmp_path / "a.jsonl", VOTED), "--against", held)
    assert status == 0
    assert "prompts       50.0%  1 of 2" in said


def test_signs_alone_are_not_all_one_text() -> None:
    assert plain("Well -- no!") == plain("well no")
    assert plain("...") != plain("?!")


def test_names_of_texts_are_not_measured(tmp_path: Path) -> None:
    rows = [{"a1": f"arg{at % 3}", "a2": f"arg{(at + 1) % 3}", "votes": ["a1"]} for at in range(12)]
    told = report_on(write(tmp_path / "a.jsonl", *rows))
    assert told.lengths is None
    assert any("names of texts" in guess for guess in told.guesses)


# The command


def test_the_command_prints_a_report_and_gives_the_same_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jsonl", *[VOTED] * 30)
    status, said, _ = called(capsys, path, "--against", path)
    assert status == 0
    assert "30 rows" in said
    assert "90 votes on 30 items by 3 annotators" in said
    assert "prompts       100.0%  30 of 30" in said
    status, said, _ = called(capsys, path, "--json")
    assert json.loads(said)["agreement"]["kappas"][0] == {
        "one": "7", "other": "8", "items": 30, "observed": 1.0, "cohen": None
    }  # fmt: skip


def test_the_command_sends_its_figures_to_mlflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    path = write(tmp_path / "a.jsonl", *[VOTED] * 30)
    assert called(capsys, path, "--mlflow")[0] == 0
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("truing").experiment_id])
    assert run.data.metrics["agreement/votes"] == 90
    assert run.data.metrics["agreement/kappas/7/8/observed"] == 1.0
    assert run.data.tags["mlflow.runName"] == f"data report {path}"


def test_the_command_writes_what_is_believed_of_every_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, beliefs = write(tmp_path / "a.jsonl", VOTED, VOTED), tmp_path / "beliefs.jsonl"
    assert called(capsys, path, "--posterior", str(beliefs))[0] == 0
    rows = [json.loads(line) for line in beliefs.read_text().splitlines()]
    assert [row["where"] for row in rows] == [f"{path}:1", f"{path}:2"]
    assert sum(rows[0]["posterior"].values()) == pytest.approx(1)
    assert max(rows[0]["posterior"], key=rows[0]["posterior"].get) == "first"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--favours", "1=frist"], 'did you mean "first"?'),
        (["--where", "side"], "expected COLUMN=VALUE"),
        (["--prior", "0", "1"], "pseudo-counts are larger than 0"),
        (["--chosen", "a1", "--first", "a2"], "the two answers are named twice"),
        (["--against", "nowhere.jsonl"], "nowhere.jsonl  no such file"),
        (["--where", "side=left"], 'where: no row has a column "side"'),
    ],
)
def test_a_wrong_option_is_told_and_not_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, _, told = called(capsys, write(tmp_path / "a.jsonl", VOTED), *words)
    assert (status, said in told, "Traceback" in told) == (2, True, False)


# Real data


@real
def test_pandalm_is_agreed_on_as_its_annotators_say() -> None:
    told = report_on(str(SHARED / "pandalm.jsonl"))
    agreement = told.agreement
    assert agreement is not None
    assert {(kappa.one, kappa.other): round(kappa.cohen or 0, 3) for kappa in agreement.kappas} == {
        ("1", "2"): 0.839,
        ("1", "3"): 0.866,
        ("2", "3"): 0.864,
    }
    assert (agreement.fleiss.value, agreement.nominal) == (pytest.approx(0.856, abs=5e-4),) * 2
    assert agreement.unanimous.share == pytest.approx(0.874)
    assert told.copies.prompts == 165


@real
def test_xstest_is_agreed_on_as_measured_elsewhere() -> None:
    agreement = report_on(str(SHARED / "xstest_annotations.jsonl")).agreement
    assert agreement is not None
    (kappa,) = agreement.kappas
    assert (kappa.items, round(kappa.observed, 3), round(kappa.cohen or 0, 3)) == (2250, 0.964, 0.937)


@real
def test_ukpconvarg_is_a_crowd_that_agrees_little() -> None:
    told = report_on(str(SHARED / "ukpconvarg_pairs.jsonl"))
    agreement = told.agreement
    assert agreement is not None
    assert (agreement.fleiss.items, agreement.fleiss.left_out) == (14449, 165)
    assert agreement.fleiss.value == pytest.approx(0.277, abs=5e-4)
    assert agreement.nominal == pytest.approx(0.277, abs=6e-4)
    assert agreement.rest.right.share == pytest.approx(0.612, abs=5e-4)
    assert agreement.decided_rest is not None
    assert agreement.decided_rest.right.share == pytest.approx(0.781, abs=5e-4)
    assert agreement.model is not None
    assert agreement.model.converged
    assert told.position is not None
    assert told.position.overall is not None
    assert told.position.overall.low < 0 < told.position.overall.high, "as often the first as the second"


@real
def test_the_model_of_annotators_is_nearer_to_gold_than_the_majority_is() -> None:
    path = SHARED / "ukpconvarg_pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    here = read(str(path), Columns(), {}, False)
    data = votes_of([one.votes for one in here.found], here.labels)
    gold = np.array([{"a1": 0, "equal": 1, "a2": 2, None: -1}[row["gold"]] for row in rows])
    counts = data.counts()
    most = counts.max(1, keepdims=True)
    majority = np.where((counts == most).sum(1) > 1, 1, counts.argmax(1))
    model = dawid_skene(data).posterior.argmax(1)
    share: Callable[[Any], float] = lambda said: float((said == gold)[gold >= 0].mean())  # noqa: E731
    assert share(majority) == pytest.approx(0.883, abs=2e-3)
    assert share(model) == pytest.approx(0.896, abs=2e-3)


@real
def test_longer_arguments_win_where_texts_are_known(tmp_path: Path) -> None:
    pairs, arguments = (
        [json.loads(line) for line in (SHARED / f"ukpconvarg_{name}.jsonl").read_text().splitlines()]
        for name in ("pairs", "arguments")
    )
    texts = {row["arg_id"]: row["text"] for row in arguments}
    rows = [{**row, "a1": texts[row["a1"]], "a2": texts[row["a2"]]} for row in pairs]
    told = report_on(write(tmp_path / "a.jsonl", *rows), Columns(votes=["gold"]), {"strict": True})
    assert told.lengths is not None
    assert told.lengths.longer_wins.share == pytest.approx(0.777, abs=5e-4)


@real
def test_the_halves_of_hh_want_opposite_lengths() -> None:
    told = report_on(str(SHARED / "hh_rlhf_train.jsonl"))
    assert told.lengths is not None
    assert told.lengths.longer_wins.share == pytest.approx(0.524, abs=1e-3)
    shares = {one.value: one.longer_wins.share for one in told.categories if one.longer_wins}
    assert shares == {
        "helpful-base": pytest.approx(0.603, abs=1e-3),
        "helpful-rejection-sampled": pytest.approx(0.569, abs=1e-3),
        "helpful-online": pytest.approx(0.422, abs=1e-3),
        "harmless-base": pytest.approx(0.442, abs=1e-3),
    }

"""Choosing among completions: votes, weights, what is written, and that no order decides."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from truing.errors import UserError
from truing_evaluate.answers import canonical, reader
from truing_evaluate.voting import SUBSETS, subsets, vote, weighed

from .conftest import Call, Write, shared


def enumerated(answers: list[int], weights: list[float], truth: list[float], n: int) -> float:
    """The mean over all subsets of what wins the vote, by counting."""
    worth: list[float] = []
    for some in itertools.combinations(range(len(answers)), n):
        totals: dict[int, float] = {}
        for at in some:
            if answers[at] >= 0:
                totals[answers[at]] = totals.get(answers[at], 0.0) + weights[at]
        if not totals:
            worth.append(float(np.mean([truth[at] for at in some])))
            continue
        first = [answer for answer, total in totals.items() if total == max(totals.values())]
        worth.append(float(np.mean([np.mean([truth[at] for at in some if answers[at] == it]) for it in first])))
    return float(np.mean(worth))


CAST = st.lists(
    st.tuples(st.integers(-1, 2), st.sampled_from([0.0, 0.25, 0.5, 2.0]), st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=7,
)


@settings(deadline=None)
@given(CAST, st.data())
def test_a_vote_is_the_mean_over_every_subset(cast: list[tuple[int, float, float]], data: st.DataObject) -> None:
    answers, weights, truth = [list(some) for some in zip(*cast, strict=True)]
    n = data.draw(st.integers(1, len(cast)))
    got = vote(np.array(answers), np.array(weights), np.array(truth), n, "p")
    assert got == pytest.approx(enumerated(answers, weights, truth, n))


def test_a_vote_cannot_weigh_less_than_nothing() -> None:
    with pytest.raises(ValueError, match="less than nothing"):
        vote(np.array([0, 1]), np.array([-1.0, 2.0]), np.zeros(2), 2, "p")


def test_weights_made_of_scores_are_positive_and_keep_their_order() -> None:
    scores = np.array([-800.0, -1.0, 0.0, 3.0])
    for how in ("sigmoid", "softmax"):
        got = weighed(scores, how)  # pyright: ignore[reportArgumentType]
        assert (got >= 0).all()
        assert (np.diff(got) >= 0).all()
    assert weighed(scores, "sigmoid")[2] == 0.5


def test_more_subsets_than_can_be_counted_are_drawn_by_the_prompt_alone() -> None:
    few, many = subsets(5, 2, "p"), subsets(40, 20, "p")
    assert few.shape == (10, 5)
    assert many.shape == (SUBSETS, 40)
    assert (many.sum(1) == 20).all()
    assert (many == subsets(40, 20, "p")).all()
    assert (many != subsets(40, 20, "another")).any()


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("number", "so 12 + 30 = 42.", "42"),
        ("number", "it costs $1,250.50", "1250.5"),
        ("number", "it is -7", "-7"),
        ("number", "5.0", "5"),
        ("number", "0.0", "0"),
        ("number", "I do not know", None),
        ("line", "Well.\nParis\n\n", "Paris"),
        ("text", "  1,000 ", "1000"),
        (r"#### (.*)", "#### 1\n#### 2", "2"),
        (r"yes|no", "no, no, yes", "yes"),
        (r"#### (.*)", "nothing", None),
    ],
)
def test_an_answer_is_read_by_its_rule(rule: str, text: str, answer: str | None) -> None:
    assert reader(rule)(text) == answer


def test_one_number_is_not_part_of_another() -> None:
    assert canonical("1") != canonical("12")
    assert canonical("1,000.00") == canonical("1000")


def test_a_rule_that_is_no_expression_is_told() -> None:
    with pytest.raises(UserError, match="the rules are number, line, text"):
        reader("(")


# --- the command ------------------------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "completions": ["so 4", "so 4.0", "so 5", "so 6"],
    "answers": "four is 4",
    "scores": [0.1, 0.2, 0.9, 0.3],
}


def truths(said: Any) -> dict[str, list[float]]:
    """The truth by way, for every n."""
    found: dict[str, list[float]] = {}
    for choice in said["choices"]:
        for chosen in choice["chosen"]:
            found.setdefault(chosen["how"], []).append(chosen["truth"]["value"])
    return found


def test_the_ways_choose_differently(write: Write, truing: Call) -> None:
    path = write([ROW])
    said = truing("select", path, "--how", "best", "--how", "vote", "--how", "weighted-vote", "--json").json
    assert said["truth"] == "answers"
    assert truths(said) == {
        "best": pytest.approx([0.5, 1 / 6, 0.0]),
        "vote": pytest.approx([0.5, 0.5, 1.0]),
        "weighted-vote": pytest.approx([0.5, 1 / 6, 0.0]),
    }
    assert [choice["oracle"] for choice in said["choices"]] == pytest.approx([0.5, 5 / 6, 1.0])
    assert [choice["n"] for choice in said["choices"]] == [1, 2, 4]


def test_the_order_of_completions_changes_nothing(write: Write, truing: Call) -> None:
    random = np.random.default_rng(8)
    rows = [
        {
            "id": f"p{at}",
            "completions": [f"{text} {number}" for text, number in enumerate(random.integers(0, 3, 14))],
            "scores": random.random(14).round(1).tolist(),
            "label": random.integers(0, 2, 14).tolist(),
        }
        for at in range(6)
    ]
    turned: list[dict[str, Any]] = []
    for row in rows:
        order = random.permutation(14)
        turned.append({key: value if key == "id" else [value[at] for at in order] for key, value in row.items()})
    got = []
    for some, name in ((rows, "one.jsonl"), (turned[::-1], "two.jsonl")):
        path, out = write(some, name), Path(f"{write(some, name)}.out")
        ways = [word for how in ("best", "vote", "weighted-vote") for word in ("--how", how)]
        said = truing("select", path, *ways, "--json").json
        truing("select", path, "--how", "vote", "--write", out)
        got.append((said["choices"], out.read_text()))
    assert got[0][1] == got[1][1]
    for one, other in zip(*(some[0] for some in got), strict=True):
        assert one["oracle"] == pytest.approx(other["oracle"])
        for a, b in zip(one["chosen"], other["chosen"], strict=True):
            assert a["truth"]["value"] == pytest.approx(b["truth"]["value"])


def test_what_is_chosen_is_written_as_demonstrations(write: Write, truing: Call, tmp_path: Path) -> None:
    path, out = write([{**ROW, "metadata": {"kind": "sum"}}]), tmp_path / "best.jsonl"
    assert truing("select", path, "--write", out).status == 0
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row == {
        "id": "0",
        "prompt": "?",
        "completion": "so 5",
        "score": 0.9,
        "truth": 0.0,
        "metadata": {"kind": "sum"},
    }
    truing("select", path, "--how", "vote", "--write", out)
    assert json.loads(out.read_text())["completion"] == "so 4.0"  # the better-scored of the answer that won


def test_the_truth_may_be_another_scorers(write: Write, truing: Call) -> None:
    path = write([{"id": "p", "completions": ["a", "b"], "scores": [1.0, 2.0]}])
    gold = write([{"id": "p", "completions": ["b", "a"], "scores": [-5.0, 7.0]}], "gold.jsonl")
    assert truths(truing("select", path, "--gold", gold, "--json").json) == {"best": [1.0, -5.0]}
    other = write([{"id": "p", "completions": ["b", "c"], "scores": [-5.0, 7.0]}], "other.jsonl")
    said = truing("select", path, "--gold", other)
    assert said.status == 2
    assert "has other completions" in said.err


def test_without_a_truth_the_score_of_what_is_chosen_is_told(write: Write, truing: Call) -> None:
    said = truing("select", write([{"scores": [1.0, 3.0]}]), "--n", "1,2")
    assert said.status == 0
    assert "ORACLE" not in said.out
    assert [line.split()[2] for line in said.out.splitlines()[-2:]] == ["2.000", "3.000"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--how", "bets"], 'did you mean "best"?'),
        (["--n", "8"], "no prompt has 8 completions"),
        (["--n", "two"], '"two" is no number of completions'),
        (["--weigh", "softmaxx"], 'did you mean "softmax"?'),
        (["--how", "best", "--how", "vote", "--write", "x"], "name one --how"),
        (["--truth", "lable"], 'no "lable" in this row'),
        (["--scores", "rewards"], 'no "rewards" in this row'),
        (["--truth", "label", "--gold", "x"], "both say what is true"),
        (["--answer", "["], "no regular expression"),
    ],
)
def test_an_option_that_is_wrong_is_told(words: list[str], said: str, write: Write, truing: Call) -> None:
    path = write([{"scores": [1.0, 3.0], "label": [0, 1]}])
    got = truing("select", path, *words)
    assert got.status == 2
    assert said in got.err
    assert "Traceback" not in got.err


def test_a_negative_score_is_no_weight(write: Write, truing: Call) -> None:
    path = write([{"completions": ["1", "2"], "scores": [-1.0, 3.0], "label": [0, 1]}])
    got = truing("select", path, "--how", "weighted-vote")
    assert got.status == 2
    assert f"{path}:1" in got.err
    assert "--weigh sigmoid" in got.err
    assert truing("select", path, "--how", "weighted-vote", "--weigh", "sigmoid").status == 0


def test_the_file_that_is_read_is_not_written_over(write: Write, truing: Call) -> None:
    path = write([{"scores": [1.0, 3.0]}])
    before = path.read_text()
    assert truing("select", path, "--write", path).status == 2
    assert path.read_text() == before


def test_the_votes_of_four_models_on_real_sums(write: Write, truing: Call) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in shared("gsm8k_model_solutions.jsonl"):
        groups.setdefault(row["qid"], []).append(row)
    rows = [
        {
            "id": name,
            "completions": [f"{row['model']}: {row['solution']}" for row in some],
            "label": [int(row["is_correct"]) for row in some],
            "scores": [float("175b_verification" in row["model"]) for row in some],
        }
        for name, some in groups.items()
    ]
    said = truing("select", write(rows), "--how", "best", "--how", "vote", "--json").json
    found = truths(said)
    every = [label for row in rows for label in row["label"]]
    assert found["best"][0] == found["vote"][0] == pytest.approx(np.mean(every))
    assert found["best"][-1] == pytest.approx(0.563, abs=0.05)
    assert said["choices"][-1]["oracle"] == pytest.approx(0.6844, abs=1e-4)
    assert found["best"][0] < found["vote"][-1] < said["choices"][-1]["oracle"]


def test_a_part_of_a_mixed_score_is_chosen_by_its_name(truing: Call, write: Write) -> None:
    parts = [{"good": 1.0, "bad": 0.0}, {"good": 0.0, "bad": 2.0}]
    path = write([{"scores": [1.0, 2.0], "score_parts": parts, "label": [1, 0]}])
    for name, worth in (("score_parts.good", 1.0), ("score_parts.bad", 0.0)):
        told = truing("select", path, "--scores", name, "--json").json
        assert told["choices"][-1]["chosen"][0]["truth"]["value"] == worth


def test_a_part_that_no_score_has_is_told_with_those_there_are(truing: Call, write: Write) -> None:
    path = write([{"scores": [1.0, 2.0], "score_parts": [{"prm": 1.0}, {"prm": 0.0}], "label": [1, 0]}])
    said = truing("select", path, "--scores", "score_parts.pm")
    assert said.status != 0
    assert 'entry 1 has no "pm"' in said.err
    assert 'did you mean "prm"?' in said.err
    assert "has no parts" in truing("select", path, "--scores", "label.x").err

"""Files of solutions in steps: published formats, what labels mean, and rows that are none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from truing.errors import UserError
from truing.fields import COMPLETIONS, GROUP, IDS, PROMPTS, STEP_INDEX, STEP_LABELS, STEP_SEQ, STEPS, Batch
from truing.run import Run
from truing_data.menu_steps import StepFile
from truing_data.steps import Step, solutions_of

SHARED = Path(__file__).parents[3] / "shared/data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")


def read(path: Path, run: Run, **options: Any) -> Batch:
    """All of a file as one batch, in its order."""
    spec = StepFile(path=str(path), shuffle=False, **options)
    assert list(spec.problems()) == []

    async def whole() -> Batch:
        source = spec.build(run)
        info = await source.open()
        return await anext(source.batches(info.groups, 0))

    batch = anyio.run(whole)
    assert batch.keys() == spec.provides()
    return batch


def written(folder: Path, rows: Iterable[Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judged(batch: Batch) -> list[list[tuple[int, float]]]:
    """Of each solution, its judged steps: which, and their labels."""
    found: list[list[tuple[int, float]]] = [[] for _ in batch[GROUP]]
    of_steps = zip(*(batch[key].tolist() for key in (STEP_SEQ, STEP_INDEX, STEP_LABELS)), strict=True)
    for seq, index, label in of_steps:
        found[seq].append((index, label))
    return found


def row(labels: list[Any], **more: Any) -> dict[str, Any]:
    return {"prompt": "sum", "steps": [f"step {at}" for at in range(len(labels))], "labels": labels, **more}


BOTH = [row([1, -1]), row([1, 0])]


# --- what labels mean -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neutral", "expected"),
    [
        ("good", [(0, 1.0), (1, 1.0), (2, 0.0)]),
        ("bad", [(0, 1.0), (1, 0.0), (2, 0.0)]),
        ("half", [(0, 1.0), (1, 0.5), (2, 0.0)]),
        ("drop", [(0, 1.0), (2, 0.0)]),
    ],
)
def test_a_neutral_step_is_what_the_recipe_says(
    neutral: str, expected: list[tuple[int, float]], tmp_path: Path, run: Run
) -> None:
    path = written(tmp_path, [row([1, 0, -1])])
    assert judged(read(path, run, labels="labels", scale="human", neutral=neutral)) == [expected]


def test_probabilities_stay_what_they_are_and_null_is_not_judged(tmp_path: Path, run: Run) -> None:
    path = written(tmp_path, [row([1, 0.25, None, False, True])])
    found = judged(read(path, run, labels="labels", scale="probability"))
    assert found == [[(0, 1.0), (1, 0.25), (3, 0.0), (4, 1.0)]]


def test_soft_labels_become_hard_from_a_probability_on(tmp_path: Path, run: Run) -> None:
    path = written(tmp_path, [row([0.0, 0.01, 0.5, 0.6])])
    for least, expected in ((0.001, [0, 1, 1, 1]), (0.5, [0, 0, 1, 1])):
        batch = read(path, run, labels="labels", scale="probability", hard=least)
        assert batch[STEP_LABELS].tolist() == expected


def test_steps_behind_the_first_wrong_one_are_dropped_if_asked(tmp_path: Path, run: Run) -> None:
    path = written(tmp_path, [row([1, -1, 1, None, -1]), row([1, 1])])
    batch = read(path, run, labels="labels", scale="human", after_error="drop")
    assert judged(batch) == [[(0, 1.0), (1, 0.0)], [(0, 1.0), (1, 1.0)]]
    assert [len(steps) for steps in batch[STEPS]] == [5, 2]


def test_behind_a_first_error_nothing_is_judged(tmp_path: Path, run: Run) -> None:
    rows = [row([0] * 4, at=at) for at in (2, None, -1, 0)]
    batch = read(written(tmp_path, rows), run, first_error="at")
    right = [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]
    assert judged(batch) == [[(0, 1.0), (1, 1.0), (2, 0.0)], right, right, [(0, 0.0)]]


def test_without_labels_all_steps_are_there_to_be_scored(tmp_path: Path, run: Run) -> None:
    batch = read(written(tmp_path, [row([1, 0])]), run)
    assert STEP_LABELS not in batch
    assert batch[STEP_INDEX].tolist() == [0, 1]


def test_a_row_of_which_nothing_is_judged_is_left_out_and_counted(tmp_path: Path, run: Run) -> None:
    spec = StepFile(
        path=str(written(tmp_path, [row([None, 0]), *BOTH])), labels="labels", scale="human", neutral="drop"
    )
    info = anyio.run(spec.build(run).open)
    assert (info.groups, info.skipped) == (2, 1)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([row([1, 2])], {"labels": "labels", "scale": "human"}, "step 2 is 2, not -1, 0 or 1"),
        ([row([1, -1])], {"labels": "labels", "scale": "probability"}, 'not a probability\n.*scale = "human"'),
        ([row([1]) | {"labels": [1, 0]}], {"labels": "labels", "scale": "human"}, "has 2 labels for 1 steps"),
        ([row([1, " "]) | {"steps": ["a", " "]}], {}, "step 2 is empty"),
        ([row([])], {}, "there are no steps"),
        ([row([1], at=1)], {"first_error": "at"}, "is 1, and there are 1 steps, counted from 0"),
        ([row([1], at=True)], {"first_error": "at"}, "is True"),
        ([row([1])], {"first_error": "at"}, 'no column "at"'),
        ([row([1, 1])], {"labels": "labels", "scale": "human"}, "every step that is judged has the label 1"),
        ([row([None])], {"labels": "labels", "scale": "human"}, "no step in it is judged"),
        ([row([1])], {"format": "prm800k"}, 'no row of the format "prm800k": Object missing required field'),
        ([{"input": "Step 1: a ки", "label": "Step 1: b +"}], {"format": "math-shepherd"}, "in place of every ки"),
        ([{"input": "no steps ки", "label": "no steps +"}], {"format": "math-shepherd"}, 'no "Step 1:"'),
        ([{"input": "Step 1: a ки more", "label": "Step 1: a + more"}], {"format": "math-shepherd"}, "behind the last"),
        (
            [{"question": "q", "reasoning_steps": [{"solution_prefix": "x", "mc_value": 0.5}]}],
            {"format": "math-aps"},
            "entry 1 does not begin with the question",
        ),
        ([{"problem": "p", "nodes": [{"p": 0, "t": "a", "r": 1}]}], {"format": "prm800k"}, "stands before its parent"),
    ],
)
def test_a_row_that_is_none_is_named_with_what_is_wrong(
    rows: list[Any], options: dict[str, Any], message: str, tmp_path: Path, run: Run
) -> None:
    spec = StepFile(path=str(written(tmp_path, rows)), **options)
    with pytest.raises(UserError, match=message):
        anyio.run(spec.build(run).open)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "labels"}, "labels without scale"),
        ({"scale": "human"}, "scale without labels"),
        ({"labels": "a", "scale": "human", "first_error": "b"}, "both say which steps are right"),
        ({"format": "math-shepherd", "labels": "a", "scale": "human"}, "labels has no effect"),
        ({"hard": 0.0}, "no probability above 0"),
        ({"path": "nowhere.jsonl"}, "no file"),
    ],
)
def test_options_that_cannot_go_together_are_told_before_anything_is_read(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spec = StepFile(**{"path": str(written(tmp_path, BOTH)), **options})
    assert any(message in fault.what for fault in spec.problems())


# --- trees ------------------------------------------------------------------------------------------------------------

TREE = {
    "problem": "p",
    "nodes": [
        {"p": -1, "t": "a", "r": 1},
        {"p": 0, "t": "b", "r": -1},
        {"p": 0, "t": "c", "r": None},
        {"p": 2, "t": "d", "r": 0},
        {"p": 2, "t": "e", "r": 1},
        {"p": 0, "t": "f"},
    ],
}


def test_a_step_that_solutions_share_is_judged_in_the_first_of_them(tmp_path: Path, run: Run) -> None:
    batch = read(written(tmp_path, [TREE]), run, format="prm800k", neutral="bad")
    # The solution a, f is left out: its own step is not rated, and a is judged before.
    assert batch[STEPS] == [["a", "b"], ["a", "c", "d"], ["a", "c", "e"]]
    assert judged(batch) == [[(0, 1.0), (1, 0.0)], [(2, 0.0)], [(2, 1.0)]]
    assert batch[COMPLETIONS][1] == [{"role": "assistant", "content": "a\nc\nd"}]


trees = st.lists(st.integers(0, 100), min_size=1, max_size=12)


@given(trees)
@settings(deadline=None)
def test_every_step_of_a_tree_is_new_in_exactly_one_solution(drawn: list[int]) -> None:
    steps = [Step(number % (at + 1) - 1, f"s{at}", None) for at, number in enumerate(drawn)]
    new: list[int] = []
    for way, first in solutions_of(steps):
        assert steps[way[0]].parent == -1
        assert all(steps[after].parent == before for before, after in pairwise(way))
        assert way[-1] not in {step.parent for step in steps}
        new += way[first:]
    assert sorted(new) == list(range(len(steps)))


def test_published_prm800k_goes_on_with_what_was_chosen_or_what_a_person_wrote(tmp_path: Path, run: Run) -> None:
    def turn(chosen: int | None, *rated: tuple[str, int], human: str | None = None) -> dict[str, Any]:
        return {
            "completions": [{"text": text, "rating": rating, "flagged": False} for text, rating in rated] or None,
            "human_completion": None if human is None else {"text": human, "rating": None, "source": "human"},
            "chosen_completion": chosen,
        }

    turns = [
        turn(1, ("a", -1), ("b", 1)),
        turn(None, ("c", -1), human="h"),
        turn(0, ("d", 0)),
        turn(None, ("e", -1), ("f", 1)),
        turn(None),
    ]
    rows = [{"labeler": "x", "question": {"problem": "p", "more": 1}, "label": {"steps": turns, "finish_reason": "y"}}]
    batch = read(written(tmp_path, rows), run, format="prm800k")
    assert batch[STEPS] == [["a"], ["b", "c"], ["b", "h", "d", "e"], ["b", "h", "d", "f"]]
    assert judged(batch) == [[(0, 0.0)], [(0, 1.0), (1, 0.0)], [(2, 1.0), (3, 0.0)], [(3, 1.0)]]


def test_math_shepherd_is_cut_at_its_marks(tmp_path: Path, run: Run) -> None:
    marked = "Is Step 1: here? Step 1: 2+2=5 ки\nStep 2: 5-1=4. The answer is: 4 ки"
    rows = [{"input": marked, "label": marked.replace("ки", "-", 1).replace("ки", "+"), "task": "T"}]
    batch = read(written(tmp_path, rows), run, format="math-shepherd")
    assert batch[PROMPTS][0] == [{"role": "user", "content": "Is Step 1: here?"}]
    assert batch[STEPS] == [["Step 1: 2+2=5", "Step 2: 5-1=4. The answer is: 4"]]
    assert judged(batch) == [[(0, 0.0), (1, 1.0)]]


def test_a_step_of_math_aps_is_what_a_prefix_adds_to_the_one_before(tmp_path: Path, run: Run) -> None:
    prefixes = [("q?", 0.5), ("q? a", 0.75), ("q? a b", 1.0), ("q? c", 0.0), ("q? a b d", 0.25), ("q? a e", 0.0)]
    nodes = [{"solution_prefix": prefix, "mc_value": value} for prefix, value in prefixes]
    batch = read(written(tmp_path, [{"question": "q?", "reasoning_steps": nodes}]), run, format="math-aps", chat=False)
    assert sorted(batch[STEPS]) == [[" a", " b", " d"], [" a", " e"], [" c"]]
    assert sorted(batch[COMPLETIONS]) == [" a b d", " a e", " c"]
    assert sorted(label for some in judged(batch) for _, label in some) == [0.0, 0.0, 0.25, 0.75, 1.0]


# --- what is public ---------------------------------------------------------------------------------------------------


def sample_rows(form: str) -> list[Any]:
    samples = [json.loads(line) for line in (SHARED / "prm_format_samples.jsonl").read_text().splitlines()]
    return [sample["row"] for sample in samples if sample["format"] == form]


@real
@pytest.mark.parametrize(
    ("form", "groups", "steps", "labels"),
    [
        ("math-shepherd", 7, 25, {0.0: 20, 1.0: 5}),
        ("prm800k", 6, 73, {1.0: 58, 0.0: 15}),
        ("math-aps", 3, 132, {1.0: 120, 0.0: 5}),
    ],
)
def test_samples_of_published_formats_are_read_step_by_step(
    form: str, groups: int, steps: int, labels: dict[float, int], tmp_path: Path, run: Run
) -> None:
    rows = sample_rows(form)
    batch = read(written(tmp_path, rows), run, format=form)
    assert (len(batch[IDS]), len(batch[STEP_LABELS])) == (groups, steps)
    found = Counter(batch[STEP_LABELS].tolist())
    assert {label: found[label] for label in labels} == labels
    if form == "math-shepherd":
        assert steps == sum(row["input"].count("ки") for row in rows)
    if form == "math-aps":
        values: dict[str, list[float]] = {}
        for row in rows:
            for entry in row["reasoning_steps"]:
                if entry["solution_prefix"] != row["question"]:
                    values.setdefault(entry["solution_prefix"], []).append(entry["mc_value"])
        # Ten prefixes were met again.
        expected = sorted(sum(some) / len(some) for some in values.values())
        assert sorted(batch[STEP_LABELS].tolist()) == pytest.approx(expected)


@real
def test_every_rating_of_the_trees_is_learned_from_once(run: Run) -> None:
    path = SHARED / "prm800k_phase1_train_tree.jsonl"
    batch = read(path, run, format="prm800k", id="id", neutral="half")
    trees = [json.loads(line) for line in path.read_text().splitlines()]
    ratings = Counter(node["r"] for tree in trees for node in tree["nodes"] if node["r"] is not None)
    assert Counter(batch[STEP_LABELS].tolist()) == {(rating + 1) / 2: count for rating, count in ratings.items()}


@real
def test_a_named_mistake_is_the_last_step_that_is_judged(run: Run) -> None:
    path = SHARED / "bigbench_mistake.jsonl"
    batch = read(path, run, prompt="input", first_error="mistake_index", id="id", on_bad="skip")
    rows = {entry["id"]: entry for entry in map(json.loads, path.read_text().splitlines())}
    assert len(rows) == len(batch[IDS]) + 1  # one row has a blank step
    for name, steps in zip(batch[IDS], judged(batch), strict=True):
        place = rows[name]["mistake_index"]
        assert steps[-1] == ((len(rows[name]["steps"]) - 1, 1.0) if place is None else (place, 0.0))

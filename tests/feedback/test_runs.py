"""Whole runs with judges that give no verdict and overseers that never answer: counted, or an end that says why."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.generate.fake import Asked, FakeServer, Reply

from truing.errors import RunFailed, UserError
from truing.events import StepDone
from truing.testing import recipe, run_recipe
from truing_remote import http

GROUPS = 40
LABEL = f"""
name = "neither"

[phase.label.source]
use = "manners"
size = {GROUPS}

[phase.label.model]
use = "scratch-lm"

[phase.label.generator]
use = "scripted"
samples = 2
lines = ["one", "two"]

[phase.label.scorer]
use = "{{judge}}"
label_pairs = true
{{options}}

[phase.label.loop]
batch = 20

[phase.dpo.source]
use = "collected"
path = "@label"
form = "pairs"
soft = true

[phase.dpo.model]
use = "scratch-lm"

[phase.dpo.optimizer]
use = "adamw"

[phase.dpo.loss]
use = "dpo"
soft = true

[phase.dpo.loop]
steps = 1
"""
FRESH = 'model.use = "scratch-lm"'
"""A model that has learned nothing says A or B in one of a hundred times."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.002)
    with FakeServer() as fake:
        yield fake


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "label" / "data" / "groups.jsonl").read_text().splitlines()]


def test_a_run_whose_judge_says_neither_ends_and_says_how_often(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"40 of 40 verdicts are missing: 40 where it would rather have said something"):
        run_recipe(recipe(LABEL.format(judge="judge", options=FRESH)), tmp_path)


def test_where_all_may_be_missing_every_abstention_is_counted_and_nothing_is_left_to_learn(tmp_path: Path) -> None:
    text = LABEL.format(judge="judge", options=f"most_missing = 1.0\n{FRESH}")
    with pytest.raises(UserError, match=r"no group is left of 40 in the form pairs"):
        run_recipe(recipe(text), tmp_path)
    (folder,) = tmp_path.iterdir()
    found = rows(folder)
    assert [each["missing"] for row in found for each in row["verdicts"]] == [["unclear", "unclear"]] * GROUPS
    assert all(row["scores"] == [0.5, 0.5] and "pairs" not in row for row in found)


def test_some_abstentions_cost_their_pairs_alone_and_the_rest_is_learned(tmp_path: Path, server: FakeServer) -> None:
    def answer(asked: Asked) -> Reply | None:
        if asked.path != "/v1/chat/completions":
            return None
        shown = asked.body["messages"][-1]["content"]
        silent = "\n> a" in shown  # of prompts that begin with this letter
        word = "I" if silent else "A" if shown.index("> one") < shown.index("> two") else "B"
        place = {"token": word, "logprob": 0.0, "top_logprobs": [{"token": word, "logprob": math.log(0.9)}]}
        choice = {"message": {"role": "assistant", "content": word}, "logprobs": {"content": [place]}}
        return Reply({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})

    server.answer = answer
    done = run_recipe(recipe(LABEL.format(judge="openai-judge", options=f'url = "{server.url}"')), tmp_path)
    assert done.status == "finished"
    found = rows(done.folder)
    silent = [row for row in found if row["prompt"][0]["content"].startswith("a")]
    assert 0 < len(silent) < 0.2 * GROUPS
    assert [bool(row.get("pairs")) for row in found] == [row not in silent for row in found]
    missing = [
        event.metrics["score/missing"]
        for event in done.events
        if isinstance(event, StepDone) and event.phase == "label"
    ]
    assert sum(missing) / len(missing) == pytest.approx(len(silent) / GROUPS)
    assert sum(each["tokens"] for row in found for each in row["verdicts"]) == 20 * GROUPS


def test_a_judge_that_does_not_answer_in_time_ends_the_run_with_what_to_do(tmp_path: Path, server: FakeServer) -> None:
    server.answer = lambda asked: time.sleep(0.3) if asked.body else None
    options = f'url = "{server.url}"\ntimeout = 0.05\nretries = 0'
    with pytest.raises(RunFailed, match=r"gave no answer in 0\.05 s: raise timeout, lower concurrency"):
        run_recipe(recipe(LABEL.format(judge="openai-judge", options=options)), tmp_path)


AMPLIFY = """
name = "endless"

[phase.asked.source]
use = "permutation-powers"
permutations = 1
points = 4
most = 1

[phase.asked.model]
use = "scratch-lm"

[phase.asked.generator]
use = "amplify"
depth = 1000000
budget = 300

[phase.asked.generator.overseer]
use = "scripted"
samples = 1
lines = ["ask: a^1(A)"]

[phase.asked.generator.assistant]
use = "scripted"
samples = 1
lines = ["A"]

[phase.asked.loop]
failures.share = 1.0
failures.in_a_row = 64
"""


def test_a_recursion_without_end_is_an_abstention_and_where_all_are_the_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"no group .* the overseer abstains on .*: budget = 300 tokens are spent"):
        run_recipe(recipe(AMPLIFY), tmp_path)


def test_an_overseer_by_itself_is_no_generator_of_a_phase() -> None:
    text = LABEL.format(judge="judge", options=FRESH).replace(
        'use = "scripted"\nsamples = 2\nlines = ["one", "two"]', 'use = "power-overseer"'
    )
    with pytest.raises(
        UserError, match=r'"power-overseer" needs `asked`, .*\n.*"amplify" around it, as \[generator.overseer\]'
    ):
        recipe(text)

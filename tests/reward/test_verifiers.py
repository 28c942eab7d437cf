"""Verifiers: what counts as right, and that nothing a model writes breaks what judges it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.reward.conftest import Judged, judged

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import COMPLETIONS, GROUP, METADATA, SCORES, Batch, fields
from truing.run import Run
from truing.testing import check_spec
from truing_reward.menu_verifiers import VERIFIERS, JsonSchema, Match, Math, Number, Puzzle, Regex
from truing_reward.verifiers import reading
from truing_reward.verifiers.sandbox import Sandbox

GIVEN: dict[str, dict[str, Any]] = {"regex": {"pattern": "a"}, "json-schema": {"schema": {"type": "object"}}}
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("spec", VERIFIERS, ids=lambda spec: spec.name)
def test_a_verifier_keeps_its_promises(spec: Any) -> None:
    check_spec(spec, **GIVEN.get(spec.name, {}))
    made = spec(**GIVEN.get(spec.name, {}))
    assert made.provides() == fields(SCORES)
    assert made.requires() == fields(COMPLETIONS, GROUP, *([made.truth] if made.truth else []))
    assert list(made.problems()) == []


# --- where an answer stands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The total is $1,234.50.", Fraction(2469, 2)),
        ("3 and then 4", 4),
        ("10-3", 3),
        ("it fell to -3", -3),
        ("-$5 is what is left", -5),
        ("so 3/4 of it", Fraction(3, 4)),
        ("<<60/5=12>>12/60=1/5 pm", Fraction(1, 5)),
        ("1,2,3", 3),
        ("about 1e-3 m", Fraction(1, 1000)),
        ("- 5 apples", 5),
        (".5", Fraction(1, 2)),
        ("10/0", None),
        ("none", None),
        ("9" * 5000, None),
        ("1e999", 10**999),
        ("٣", None),
    ],
)
def test_the_last_number_of_a_text(text: str, value: Fraction | None) -> None:
    assert reading.number(text) == value


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\fbox{ x }", "x"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed", None),
        ("{1}", None),
    ],
)
def test_what_a_box_holds(text: str, inside: str | None) -> None:
    assert reading.boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(c)", "C"),
        ("The answer is (D), because I know.", "D"),
        ("I think (A) is wrong, so the answer: **B**", "B"),
        (r"A or B? \boxed{\text{C}}", "C"),
        ("A long story about nothing", None),
        ("It must be E. I am sure.", "E"),
        ("Who's there?", None),
    ],
)
def test_the_letter_of_a_multiple_choice(text: str, letter: str | None) -> None:
    assert reading.option(text) == letter


def test_the_code_of_a_completion_is_its_last_block_of_python() -> None:
    text = "First:\n```python\nx = 1\n```\nor rather\n```py\nx = 2\n```\nwhich prints\n```text\n2\n```\n"
    assert reading.code(text) == "x = 2\n"
    assert reading.code("x = 3") == "x = 3"
    assert reading.code("```\nx = 4") == "x = 4"


@pytest.mark.parametrize("read", [reading.number, reading.boxed, reading.option, reading.code, reading.fenced])
@pytest.mark.parametrize(
    "text", ["1", "1,", "\\boxed{", "{", "```\n", " ", "A ", "(A", "answer ", "1/", "-$", "1e1", "1.1"]
)
def test_reading_takes_time_in_proportion_to_the_text(read: Callable[[str], Any], text: str) -> None:
    began = time.perf_counter()
    read(text * 100_000)
    assert time.perf_counter() - began < 3


# --- match and number -------------------------------------------------------------------------------------------------


def test_what_need_not_be_the_same_is_said() -> None:
    every = Match(ignore=["case", "blanks", "punctuation", "articles"])
    assert judged(every, "The  quick, fox", ["a QUICK fox.", "quick foxes"]).scores == [1, 0]
    assert judged(Match(ignore=["blanks"]), "a  b", ["a\nb", "ab"]).scores == [1, 0]
    assert judged(Match(), "a  b", ["a b"]).scores == [0]


def test_a_completion_without_its_box_has_no_answer_and_the_known_one_needs_none() -> None:
    found = judged(Match(take="boxed"), "42", [r"\boxed{42}", "42", r"\boxed{41}"])
    assert (found.scores, found.counts) == ([1, 0, 0], {"": 2, "unread": 1})


def test_options_are_compared_as_letters() -> None:
    assert judged(Match(take="option"), "(B) Paris", ["The answer is B.", "A", "b"]).scores == [1, 0, 1]


def test_numbers_are_equal_however_they_are_written() -> None:
    assert judged(Number(), "so #### 1,000", ["#### $1000.00", "it is 1000", "#### 1001", "a thousand"]).scores == [
        1,
        1,
        0,
        0,
    ]
    assert judged(Number(tolerance=0.01), "100", ["101", "101.1", "-100"]).scores == [1, 0, 0]
    found = judged(Number(), "no number", ["1", "none"])
    assert (found.scores, found.counts) == ([0, 0], {"unknown": 2})


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not here")
def test_gsm8k_is_regraded_as_its_file_says_on_every_row() -> None:
    known = {row["id"]: row["answer"] for row in rows(DATA / "gsm8k_test.jsonl")}
    tried = rows(DATA / "gsm8k_model_solutions.jsonl")
    answers = list(known)
    found = judged(
        Number(),
        list(known.values()),
        [row["solution"] for row in tried],
        [answers.index(row["qid"]) for row in tried],
    )
    assert len(tried) == 2636
    assert [bool(score) for score in found.scores] == [row["regraded"] for row in tried]
    assert [row["is_correct"] for row in tried] == [row["regraded"] for row in tried]


def rows(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


# --- judges in workers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mathematics() -> Judged:
    return Judged(Math(seconds=20))


@pytest.mark.parametrize(
    ("known", "text", "score"),
    [
        (r"\frac{1}{2}", "The answer is 0.5", 1),
        (r"$\frac{1}{2}$", r"so \boxed{\frac{2}{4}}", 1),
        ("so #### 72", "It is 72", 1),
        ("72", r"first \boxed{71}, no: \boxed{72}", 1),
        ("72", r"\boxed{71} or 72", 0),
        ("x^2+2x+1", "$(x+1)^2$", 1),
        ("x^2+2x+1", "$(x-1)^2$", 0),
        (r"(-\infty, 3]", r"$x \in (-\infty, 3]$", 1),
        (r"\{1,2\}", r"$\{2, 1\}$", 1),
        ("10", "1, 10, 11", 0),
        ("1000", "1,000", 1),
    ],
)
def test_mathematics_is_compared_by_its_worth(mathematics: Judged, known: str, text: str, score: float) -> None:
    pytest.importorskip("math_verify")
    assert mathematics(known, [text]).scores == [score]


def test_what_cannot_be_parsed_is_wrong_and_told() -> None:
    pytest.importorskip("math_verify")
    found = judged(Math(), "1", ["I do not know", "1"])
    assert (found.scores, found.counts) == ([0, 1], {"": 1, "unread": 1})
    assert found.told == ["math: 1 of 2 completions have no answer that could be read, and count as wrong"]


def test_only_a_box_counts_where_only_a_box_may() -> None:
    pytest.importorskip("math_verify")
    assert judged(Math(boxed=True), "7", ["7", r"\boxed{7}"]).scores == [0, 1]


def test_an_expression_that_is_too_large_costs_its_time_and_nothing_else() -> None:
    pytest.importorskip("math_verify")
    found = judged(Math(seconds=2), "7", ["$9^{9^{9^{9}}}$", "7", "$((10!)!)!$", "7"])
    assert found.scores == [0, 1, 0, 1]
    assert sum(count for why, count in found.counts.items() if why) == 2


def test_a_pattern_that_takes_ages_counts_as_wrong_and_is_told_of() -> None:
    found = judged(Regex(pattern="(a+)+$", seconds=0.5), None, ["aa", "a" * 50 + "b", "b", "aa"])
    assert (found.scores, found.counts) == ([1, 0, 0, 1], {"": 3, "slow": 1})
    assert found.told == ["regex: 1 of 4 completions took longer than they may, and count as wrong"]


def test_a_pattern_may_have_to_be_all_or_absent() -> None:
    texts = ["<think>x</think> 4", "4", "<THINK>\nx</THINK> 4"]
    form = r"<think>.*</think>\s*\d+"
    assert judged(Regex(pattern=form), None, texts).scores == [1, 0, 0]
    assert judged(Regex(pattern=form, flags=["ignorecase", "dotall"]), None, texts).scores == [1, 0, 1]
    assert judged(Regex(pattern=r"\d+", whole=True), None, texts).scores == [0, 1, 0]
    assert judged(Regex(pattern="think", absent=True), None, texts).scores == [0, 1, 1]
    assert judged(Regex(pattern="^4$", flags=["multiline"]), None, ["x\n4\ny", "x4"]).scores == [1, 0]


def test_a_pattern_that_is_none_is_told_with_its_place() -> None:
    (fault,) = Regex(pattern="a(b").problems()
    assert fault.option == "pattern"
    assert "missing ), unterminated subpattern, at character 2: '(b'" in fault.what


SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}}


def test_json_must_fit_the_schema() -> None:
    pytest.importorskip("jsonschema")
    texts = ['{"city": "Bern"}', '```json\n{"city": "Bern"}\n```', '{"city": "bern"}', "{}", "{", "NaN", "[" * 100_000]
    found = judged(JsonSchema(schema=SCHEMA, valid=0.25), None, texts)
    assert found.scores == [1, 1, 0.25, 0.25, 0, 0, 0]
    assert found.counts == {"": 4, "unread": 3}


def test_a_schema_may_stand_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    assert judged(JsonSchema(file=str(path)), None, ['{"city": "Bern"}', "{}"]).scores == [1, 0]
    path.write_text("[]")
    assert "holds no JSON object" in next(iter(JsonSchema(file=str(path)).problems())).what
    assert "cannot read" in next(iter(JsonSchema(file=str(tmp_path / "none.json")).problems())).what
    assert "both say" in next(iter(JsonSchema(file=str(path), schema=SCHEMA).problems())).what
    assert "no schema" in next(iter(JsonSchema().problems())).what


def test_a_schema_that_is_none_is_told_before_anything_is_scored() -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(UserError, match=r"\$\.type: 'objekt' is not valid"):
        Judged(JsonSchema(schema={"type": "objekt"}))


def test_a_missing_library_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing_reward.menu_verifiers.find_spec", lambda name: None)
    for spec, extra in ((Math(), "verify"), (JsonSchema(schema=SCHEMA), "verify"), (Puzzle(), "tasks")):
        (fault,) = spec.problems()
        assert fault.mend == f'pip install "truing[{extra}]"'
        assert fault.option in spec.__struct_fields__


def test_a_task_scores_answers_to_its_own_question() -> None:
    pytest.importorskip("reasoning_gym")
    from truing_data.plugin import ReasoningGym
    from truing_data.tasks import load

    groups = load(ReasoningGym(tasks=["countdown", "spell_backward", "chain_sum"], options={}, size=6)).groups
    truths = [group.extra[METADATA][0] for group in groups]
    right = [str(group.completions[0][0]["content"]) for group in groups]  # pyright: ignore
    scorer = Judged(Puzzle(seconds=30))
    assert scorer(truths, right, list(range(6))).scores == [1.0] * 6
    wrong = scorer(truths, ["__import__('os').abort()", "?", "x" * 1000, "", "1/0", "\ud800"], list(range(6)))
    assert max(wrong.scores) < 0.1
    boxed = Judged(Puzzle(take="boxed", seconds=30))
    found = boxed(truths, [f"it is \\boxed{{{answer}}}" for answer in right], list(range(6)))
    assert found.scores == [1.0] * 6


# --- whatever a model writes ------------------------------------------------------------------------------------------

ANYTHING = st.text(max_size=60) | st.text('\\{}[]()^_$0123456789./-+*=<>,"abox frac', max_size=80)


@pytest.fixture(scope="module")
def everyone() -> list[tuple[Judged, Any]]:
    for library in ("math_verify", "jsonschema", "reasoning_gym"):
        pytest.importorskip(library)
    made = {"task": "chain_sum", "options": {"seed": 1, "size": 4}, "index": 0}
    some: list[tuple[Any, Any]] = [
        (Match(close=True), "4"),
        (Match(take="option", ignore=["case", "blanks", "punctuation", "articles"]), "A"),
        (Match(take="boxed", after="#"), "4"),
        (Number(), "4"),
        (Math(), "4"),
        (Regex(pattern=r"(\w+)\s\1"), None),
        (JsonSchema(schema=SCHEMA), None),
        (Puzzle(), made),
    ]
    return [(Judged(spec), truth) for spec, truth in some]


@settings(deadline=None, database=None, max_examples=60)
@given(text=ANYTHING)
def test_any_text_has_a_score_from_zero_to_one(everyone: list[tuple[Judged, Any]], text: str) -> None:
    for scorer, truth in everyone:
        (score,) = scorer(truth, [text]).scores
        assert math.isfinite(score)
        assert 0 <= score <= 1


def test_a_lone_surrogate_is_text_too(everyone: list[tuple[Judged, Any]]) -> None:
    for scorer, truth in everyone:
        assert 0 <= scorer(truth, ["\ud800 4 \x00"]).scores[0] <= 1


def test_what_is_told_is_told_again_when_it_has_doubled() -> None:
    scorer = Judged(Number())
    told = [bool(scorer("4", ["none"]).told) for _ in range(8)]
    assert told == [True, True, False, True, False, False, False, True]


def test_without_namespaces_workers_judge_under_limits_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Sandbox):
        def __init__(self, part: str, given: Any, limits: dict[str, int], namespaces: bool, **more: Any) -> None:
            super().__init__("nothing" if namespaces else part, given, limits, False, **more)

    monkeypatch.setattr("truing_reward.verifiers.workers.Sandbox", Refused)
    scorer = Judged(Regex(pattern="a"))
    assert scorer.bus.said == [
        "regex: this system does not let it work in namespaces, so what it computes is limited, not isolated"
    ]
    assert scorer(None, ["a", "b"]).scores == [1, 0]


def test_a_worker_ends_with_the_run_that_it_works_for(tmp_path: Path) -> None:
    program = """
import os, sys, threading
from pathlib import Path
from truing.bus import Bus
from truing.run import Run
from truing_reward.verifiers.workers import Workers
options = {"pattern": "(a+)+$", "flags": [], "whole": False, "absent": False}
workers = Workers("regex", "truing_reward.verifiers.pattern", options, 0.2, Run("test", Path(), 0, Bus()))
(worker,) = workers._all
worker._process.stdin.write(b'["' + b'a' * 80 + b'b", null]' + bytes([10]))
print(worker._process.pid, flush=True)
os._exit(0)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    until = time.monotonic() + 60
    while Path(f"/proc/{int(told.stdout)}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{int(told.stdout)}").exists()


def test_a_judge_that_waits_is_left_when_nobody_waits_for_it() -> None:
    scorer = Regex(pattern="(a+)+$", seconds=60).build(Run("test", Path(), 0, Bus()))
    batch = Batch({COMPLETIONS: ["a" * 60 + "b"] * 8, GROUP: torch.zeros(8, dtype=torch.int64)})

    async def impatient() -> None:
        with anyio.move_on_after(1):
            await scorer.score(batch)

    began = time.perf_counter()
    anyio.run(impatient)
    assert time.perf_counter() - began < 10

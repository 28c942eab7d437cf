"""A generator that says its lines, for the tests of what comes after it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from truing.errors import RunFailed, UserError
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    PROMPTS,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
)
from truing.testing import check_spec
from truing_generate.plugin import Scripted

from .conftest import Told, asked


class Nothing:
    """Weights of a version, without any."""

    origin = ""

    def __init__(self, version: int) -> None:
        self.version = version

    def tensors(self) -> Any:
        return ()


def said(told: Told, *prompts: str, **options: Any) -> Batch:
    spec = Scripted(**{"samples": 2, "lines": ["yes", "no"], **options})
    assert not list(spec.problems())
    return anyio.run(spec.build(told.run).generate, asked(*prompts))


def test_it_keeps_its_promises() -> None:
    check_spec(Scripted, lines=["a"])


def test_lines_are_said_in_turn(told: Told) -> None:
    batch = said(told, "one", "two", lines=["a", "b", "c"])
    assert batch[COMPLETIONS] == ["a", "b", "c", "a"]
    assert batch[GROUP].tolist() == [0, 0, 1, 1]
    assert batch[IDS] == ["p0", "p1"]
    assert batch[PROMPTS] == ["one", "two"]


def test_a_prompt_has_its_own_answers(told: Told) -> None:
    batch = said(told, "one", "two", samples=3, answers={"p1": ["x", "y"]})
    assert batch[COMPLETIONS] == ["yes", "no", "yes", "x", "y", "x"]


def test_a_prompt_without_a_line_is_an_error(told: Told) -> None:
    with pytest.raises(UserError, match=r"nothing to say to the prompt p1\n.*set lines"):
        said(told, "one", "two", lines=[], answers={"p0": ["x"]})


def test_turns_go_on_from_call_to_call(told: Told) -> None:
    generator = Scripted(samples=1, lines=["a", "b"]).build(told.run)
    assert [anyio.run(generator.generate, asked("x"))[COMPLETIONS] for _ in range(3)] == [["a"], ["b"], ["a"]]


def test_its_tokens_are_those_of_scratch_lm(told: Told, tmp_path: Path) -> None:
    from truing_model.scratch import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    every = "".join(map(chr, range(32, 127))) + "äß€😀\n\t\0"
    one, other = (said(told, "x", lines=[every], tokenizer=path) for path in ("", str(tmp_path)))
    assert one[TOKENS].tolist() == other[TOKENS].tolist()
    assert one[TOKENS][:-1][one[SEQ][:-1] == 0][-1] == tokenizer.eos_token_id
    assert one[COMPLETIONS] == other[COMPLETIONS] == [every] * 2


def test_every_token_has_the_given_log_probability(told: Told) -> None:
    batch = said(told, "x", logprob=-0.5)
    assert batch[LOGPROBS_OLD].tolist() == batch[LOGPROBS_SAMPLED].tolist() == [-0.5] * len(batch[TOKENS])
    assert batch[LOGPROBS_OLD].dtype == torch.float32


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.text(max_size=12), min_size=1, max_size=4),
    samples=st.integers(1, 4),
    longest=st.integers(1, 12),
    stop=st.lists(st.text("ab.", min_size=1, max_size=2), max_size=2),
)
def test_a_completion_ends_where_it_says(
    tmp_path: Path, lines: list[str], samples: int, longest: int, stop: list[str]
) -> None:
    try:
        "".join(lines).encode()
    except UnicodeEncodeError:
        return
    batch = said(Told(tmp_path), "x", "y", lines=lines, samples=samples, max_new_tokens=longest, stop=stop)
    lengths = torch.bincount(batch[SEQ], minlength=2 * samples)
    assert len(batch[COMPLETIONS]) == len(batch[FINISH]) == len(lengths) == 2 * samples
    assert batch[LOGPROBS_OLD].shape == batch[TOKENS].shape == batch[SEQ].shape
    for seq, (text, finish) in enumerate(zip(batch[COMPLETIONS], batch[FINISH], strict=True)):
        tokens = batch[TOKENS][batch[SEQ] == seq].tolist()
        assert 1 <= len(tokens) <= longest
        assert (tokens[-1] == 256) == (finish == "end")
        assert len(tokens) == longest or finish != "length"
        if finish != "length":
            assert not any(mark in text for mark in stop)


def test_the_first_stop_string_ends_a_line(told: Told) -> None:
    batch = said(told, "x", lines=["one. two! three"], stop=["!", "."])
    assert batch[COMPLETIONS] == ["one"] * 2
    assert batch[FINISH] == ["stop"] * 2
    assert (batch[SEQ] == 0).sum() == len("one.")


def test_it_fails_at_the_call_it_is_told_to_and_goes_on(told: Told) -> None:
    generator = Scripted(samples=1, lines=["a"], fail_at=2).build(told.run)
    anyio.run(generator.generate, asked("x"))
    with pytest.raises(RunFailed, match="call 2 of the scripted generator fails"):
        anyio.run(generator.generate, asked("x"))
    assert anyio.run(generator.generate, asked("x"))[COMPLETIONS] == ["a"]


def test_it_falls_short_when_told_to(told: Told) -> None:
    batch = said(told, "x", "y", samples=3, missing=1)
    assert batch[GROUP].tolist() == [0, 0, 1, 1]
    none = said(told, "x", samples=3, missing=3)
    assert none[COMPLETIONS] == []
    assert none[TOKENS].tolist() == none[GROUP].tolist() == []


def test_it_takes_its_time(told: Told) -> None:
    started = time.monotonic()
    said(told, "x", delay=0.1)
    assert time.monotonic() - started >= 0.1


def test_it_says_under_which_weights_it_spoke(told: Told) -> None:
    generator = Scripted(samples=1, lines=["a"]).build(told.run)

    async def steps() -> list[int]:
        made = [await generator.generate(asked("x"))]
        await generator.sync_weights(Nothing(7))
        made.append(await generator.generate(asked("x")))
        return [batch[VERSION].item() for batch in made]

    assert anyio.run(steps) == [0, 7]


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "lines: it has nothing to say"), ({"lines": ["a"], "samples": 2, "missing": 3}, "missing: 3 of 2")],
    ids=str,
)
def test_a_script_that_cannot_be_is_told(options: dict[str, Any], said: str) -> None:
    assert said in "\n".join(f"{fault.option}: {fault.what}" for fault in Scripted(**options).problems())

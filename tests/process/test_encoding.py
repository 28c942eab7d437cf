"""Steps to tokens: a separator behind each, counted, whatever the text holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.process.conftest import solutions, some

from truing.fields import GROUP, IDS, SEQ, STEP_END, STEP_INDEX, STEP_LABELS, STEP_SEQ, TOKENS, Batch, Group
from truing_model.encode import Encoder
from truing_model.scratch import byte_tokenizer
from truing_model.steps import StepEncoder
from truing_tensor.groups import batch_of
from truing_tensor.steps import split_steps, step_ends

BYTES = byte_tokenizer()


def encoder(separator: str = "\n", max_tokens: int = 1000, truncate: bool = False) -> StepEncoder:
    return StepEncoder(Encoder(BYTES, max_tokens, truncate), separator)


def text(tokens: Any) -> str:
    return str(BYTES.decode(tokens))


def parts(batch: Batch) -> list[list[int]]:
    sizes = torch.bincount(batch[SEQ], minlength=len(batch[GROUP])).tolist()
    return [part.tolist() for part in batch[TOKENS].split(sizes)]


def test_every_step_the_last_included_has_its_separator_and_no_end_token_follows() -> None:
    batch = encoder(" #\n")(batch_of(some())).batch
    said = [text(part) for part in parts(batch)]
    assert said == [
        "two #\nso 2 #\n",
        "three #\n",
        "first #\n second #\nthird. #\n",
        "a #\nb #\nc #\nd #\n",
        "f #\ng #\n",
    ]


def test_a_step_ends_with_its_separator_and_steps_that_are_not_judged_have_no_end() -> None:
    batch = encoder()(batch_of(some())).batch
    tokens = batch[TOKENS].tolist()
    ends = batch[STEP_END].tolist()
    assert all(text([tokens[end]]) == "\n" for end in ends)
    assert batch[STEP_SEQ].tolist() == [0, 0, 1, 2, 2, 3, 3, 3, 4, 4]
    assert batch[STEP_INDEX].tolist() == [0, 1, 0, 0, 2, 0, 1, 2, 0, 1]
    assert [batch[SEQ][end].item() for end in ends] == batch[STEP_SEQ].tolist()
    assert batch[STEP_LABELS].tolist() == [1, 0, 1, 1, 0, 1, 1, 0.25, 0, 1]


def test_a_solution_of_which_nothing_is_judged_is_left_out() -> None:
    batch = encoder()(batch_of(some())).batch
    assert batch[GROUP].tolist() == [0, 0, 1, 2, 2]


step = st.text(st.sampled_from("ab\n .<"), min_size=1, max_size=6)


@given(st.lists(st.lists(st.lists(step, min_size=1, max_size=5), min_size=1, max_size=3), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_there_are_as_many_ends_as_steps_whatever_the_steps_contain(drawn: list[list[list[str]]]) -> None:
    groups = [solutions(f"g{at}", "q", *each) for at, each in enumerate(drawn)]
    batch = encoder("\n\n")(batch_of(groups)).batch
    steps = [steps for each in drawn for steps in each]
    assert len(batch[STEP_END]) == sum(map(len, steps))
    start = 0
    for mine, written in zip(steps, parts(batch), strict=True):
        lengths = [len(f"{it}\n\n".encode()) for it in mine]
        assert len(written) == sum(lengths)
        for length in lengths:
            start += length
            assert start - 1 in batch[STEP_END].tolist()


def test_truncation_leaves_out_whole_steps_and_is_counted() -> None:
    groups = [
        solutions("long", "q", ["aaaa", "bbbb", "cccc"], ["dddddddddddddd"]),
        solutions("last", "q", ["aaaa", "bbbb", "cccc"], labels=[[None, None, 1.0]]),
        solutions("fits", "q", ["e"]),
    ]
    found = encoder(max_tokens=12, truncate=True)(batch_of(groups))
    assert found.batch[IDS] == ["long", "fits"]
    assert [text(part) for part in parts(found.batch)] == ["aaaa\nbbbb\n", "e\n"]
    assert found.batch[STEP_INDEX].tolist() == [0, 1, 0]
    assert found.batch[STEP_END].tolist() == [4, 9, 11]
    assert found.truncated == 3
    assert found.dropped == [("last", "no step that is judged is left")]


def test_without_truncation_a_group_that_is_too_long_is_dropped_by_name() -> None:
    groups = [solutions("long", "q", ["aaaa", "bbbb", "cccc"]), solutions("fits", "q", ["e"])]
    found = encoder(max_tokens=12)(batch_of(groups))
    assert found.batch[IDS] == ["fits"]
    assert found.dropped == [("long", "16 tokens, 1 of them prompt; max_tokens is 12")]


def test_a_batch_of_which_nothing_is_left_has_no_groups() -> None:
    found = encoder(max_tokens=3)(batch_of([solutions("long", "q", ["aaaa"])]))
    assert found.batch[IDS] == []
    assert len(found.batch[STEP_END]) == 0


def test_a_chat_template_writes_the_prompt_alone() -> None:
    group = solutions("chat", "", ["  indented", "next"])
    chat = Group(id="chat", prompt=[{"role": "user", "content": "hi"}], completions=["x"], extra=group.extra)
    batch = encoder()(batch_of([chat])).batch
    assert text(parts(batch)[0]) == "  indented\nnext\n"


@pytest.mark.parametrize(
    ("written", "separator", "expected"),
    [
        ("ab\ncd\n", "\n", [2, 5]),
        ("ab\ncd", "\n", [2, 4]),
        ("\n\nab\n\n\ncd\n\n", "\n", [4, 9]),
        ("ab\n\ncd", "\n\n", [3, 5]),
        ("ab\ncd", "\n\n", [4]),
        ("", "\n", []),
        (" \n ", "\n", []),
        ("é\nü", "\n", [2, 4]),
        (";;a;; ;b;", ";", [3, 8]),
    ],
)
def test_steps_of_sampled_tokens_end_where_the_separator_is_complete(
    written: str, separator: str, expected: list[int]
) -> None:
    tokens = BYTES(written, add_special_tokens=False)["input_ids"]
    assert step_ends(tokens, text, separator) == expected
    assert len(split_steps(written, separator)) == len(expected)


def test_a_separator_that_tokens_hide_is_found_in_the_text() -> None:
    """A tokenizer that has a token for a full stop and a line break together, as many have."""
    words = {0: "a", 1: ".\n", 2: "b", 3: "\n", 4: "\n\n"}

    def decoded(tokens: Any) -> str:
        return "".join(words[token] for token in tokens)

    assert step_ends([0, 1, 2, 3, 0, 4, 2], decoded, "\n") == [1, 3, 5, 6]

"""Prompts that begin with one another are computed once, and sampled from as if each had been alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from tests.model.conftest import FAMILIES

from truing.fields import IDS, LOGPROBS_OLD
from truing_generate import cache
from truing_generate.voices import nested

from .samplers import asked, by_completion, generated, run_in

TEXTS = ("one", "one and", "one and", "one", "one and two more", "another", "ano", "x")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_gets_the_completions_it_would_get_alone(family: str, folder_of: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"samples": 3, "max_new_tokens": 8}
    names = [f"p{at}" for at in range(len(TEXTS))]
    together = generated(folder_of(family), run_in(tmp_path), asked(*TEXTS).put(IDS, names), **options)
    tokens, logprobs = by_completion(together), by_completion(together, LOGPROBS_OLD)
    for at, text in enumerate(TEXTS):
        alone = generated(folder_of(family), run_in(tmp_path), asked(text).put(IDS, [names[at]]), **options)
        assert tokens[3 * at : 3 * at + 3] == by_completion(alone)
        for mine, expected in zip(logprobs[3 * at :], by_completion(alone, LOGPROBS_OLD), strict=False):
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(expected), rtol=0, atol=1e-4)


def test_what_prompts_share_is_computed_once(folder_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    prefill = cache.Prefill.__call__

    def watch(self: Any, layer: int, *sides: Any) -> torch.Tensor:
        if layer == 0:
            computed.append(sum(prompt.length for prompt in self.prompts))
        return prefill(self, layer, *sides)

    monkeypatch.setattr(cache.Prefill, "__call__", watch)
    generated(folder_of("llama"), run_in(tmp_path), asked(*TEXTS), samples=2, max_new_tokens=4)
    assert sum(computed) == len("one and two more") + len("another") + len("x")


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(1, 12))
def test_texts_are_taken_in_order_and_lie_upon_the_longest_of_their_row(texts: list[list[int]], most: int) -> None:
    rows = nested(texts, most)
    assert [text for row in rows for text in row] == texts[: sum(map(len, rows))]
    assert rows
    for row in rows:
        longest = max(row, key=len)
        assert all(longest[: len(text)] == text for text in row)
    if sum(map(len, rows)) > 1:
        assert sum(len(max(row, key=len)) for row in rows) <= most

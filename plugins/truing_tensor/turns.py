"""Completions of several turns: what was heard between their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from truing.fields import HEARD, HEARD_BEFORE, Field


def heard_fields(completions: Iterable[tuple[int, Sequence[tuple[int, list[int]]]]]) -> dict[Field[Any], Any]:
    """HEARD and HEARD_BEFORE [heard] of completions: how many tokens each has, and what was heard before which of them.

    What was heard behind the last token is left out: nothing was written after it.
    """
    heard: list[int] = []
    before: list[int] = []
    start = 0
    for size, parts in completions:
        for at, tokens in parts:
            if at < size:
                heard += tokens
                before += [start + at] * len(tokens)
        start += size
    return {
        HEARD: torch.tensor(heard, dtype=torch.int64),
        HEARD_BEFORE: torch.tensor(before, dtype=torch.int64),
    }

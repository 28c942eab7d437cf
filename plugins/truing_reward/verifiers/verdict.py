"""A verdict on one completion, and what can be told of those that were not judged by what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Why = Literal["", "unread", "slow", "broken", "unknown"]
"""Why a completion scored without being compared; "" where it was."""

TOLD: Mapping[Why, str] = {
    "unread": "have no answer that could be read, and count as wrong",
    "slow": "took longer than they may, and count as wrong",
    "broken": "broke what was to judge them, and count as wrong",
    "unknown": "were asked for something whose known answer cannot be read, and count as wrong",
}
"""What is told of so many completions."""


class Verdict(NamedTuple):
    """score: from 0, wrong, to 1, right."""

    score: float
    why: Why = ""


Judge = Callable[[str, Any], Verdict]
"""Of a completion and of what its prompt came with. Never raises for what a completion says."""

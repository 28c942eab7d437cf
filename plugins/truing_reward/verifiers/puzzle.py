"""The judge of puzzles by the task that made them up. Some tasks evaluate what they are answered: hence a worker.

A puzzle comes as what made it (`METADATA`), and is made again here: so it is exactly what the task scores against,
whatever Python values it holds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from truing_reward.verifiers import reading
from truing_reward.verifiers.verdict import Judge, Verdict


def prepare(options: dict[str, Any]) -> Judge:
    """The judge of a `reasoning-gym` spec's options."""
    from reasoning_gym.factory import create_dataset

    @lru_cache(64)
    def task(name: str, configured: bytes) -> Any:
        return create_dataset(name, **msgspec.json.decode(configured))

    @lru_cache(1024)
    def puzzle(name: str, configured: bytes, index: int) -> Any:
        return task(name, configured)[index]

    def judge(text: str, truth: dict[str, Any]) -> Verdict:
        made = (truth["task"], msgspec.json.encode(truth["options"], order="sorted"))
        text = reading.behind(text, options["after"]).strip()
        answer = reading.boxed(text) if options["take"] == "boxed" else text
        if answer is None:
            return Verdict(0.0, "unread")
        return Verdict(float(task(*made).score_answer(answer, puzzle(*made, truth["index"]))))

    return judge

"""The judge of mathematical answers, by math-verify. It computes with what a model wrote, so it works in a worker."""

from __future__ import annotations

import logging
from typing import Any

from truing_reward.verifiers import reading
from truing_reward.verifiers.verdict import Judge, Verdict


def prepare(options: dict[str, Any]) -> Judge:
    """The judge of a `math` spec's options."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # It warns that nobody looks at the clock; whoever asks this worker does.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    kinds = [LatexExtractionConfig(), ExprExtractionConfig()]

    def read(text: str) -> list[Any]:
        found = parse(text, kinds, parsing_timeout=None)
        return [value for value in found if not isinstance(value, str)]

    def known(text: str) -> list[Any]:
        text = reading.behind(text, options["after"])
        inside = reading.boxed(text)
        return read(f"${text if inside is None else inside}$") or read(text)

    def judge(text: str, truth: str) -> Verdict:
        text = reading.behind(text, options["after"])
        inside = reading.boxed(text)
        if options["boxed"] and inside is None:
            return Verdict(0.0, "unread")
        said = read(text if inside is None else f"\\boxed{{{inside}}}")
        if not said:
            return Verdict(0.0, "unread")
        right = known(truth)
        if not right:
            return Verdict(0.0, "unknown")
        return Verdict(float(verify(right, said, timeout_seconds=None)))

    return judge

"""Scorers that compare a completion with an answer that is known."""

from __future__ import annotations

from difflib import SequenceMatcher

import torch

from truing.fields import ANSWERS, COMPLETIONS, GROUP, SCORES, Batch, Text
from truing.run import Run
from truing_reward import plugin


class Match:
    """Says whether a completion is the answer, or how close it comes."""

    def __init__(self, spec: plugin.Match, run: Run) -> None:
        self._spec = spec

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq]."""
        answers = [self._read(answer) for answer in batch[ANSWERS]]
        pairs = zip(batch[GROUP].tolist(), batch[COMPLETIONS], strict=True)
        scores = [self._compare(self._read(text), answers[group]) for group, text in pairs]
        return batch.put(SCORES, torch.tensor(scores, dtype=torch.float32))

    def _compare(self, text: str, answer: str) -> float:
        if self._spec.close:
            return SequenceMatcher(None, text, answer, autojunk=False).ratio()
        return float(text == answer)

    def _read(self, text: Text) -> str:
        words = text if isinstance(text, str) else " ".join(turn["content"] for turn in text)
        if self._spec.after:
            words = words.rpartition(self._spec.after)[2]
        return words.strip() if self._spec.case else words.strip().lower()

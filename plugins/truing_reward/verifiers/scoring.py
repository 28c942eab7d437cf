"""What all verifiers share: one verdict for every completion, and a word to the user on those that were not judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from truing.events import Notice
from truing.fields import COMPLETIONS, GROUP, SCORES, Batch
from truing.run import Run, gathered
from truing_reward.menu_verifiers import Verifier
from truing_reward.verifiers.verdict import TOLD, Verdict, Why

S = TypeVar("S", bound=Verifier)


class Scoring(ABC, Generic[S]):
    """A scorer that judges every completion by itself. counts: completions so far, by why they were not judged."""

    def __init__(self, spec: S, run: Run) -> None:
        self.spec = spec
        self.counts: Counter[Why] = Counter()
        self._run = run
        self._told: Counter[Why] = Counter()

    @abstractmethod
    async def judged(self, text: str, truth: Any) -> Verdict:
        """The verdict on one completion. truth: what its prompt came with."""
        ...

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], each from 0 to 1."""
        truths = None if self.spec.truth is None else [plain(truth) for truth in batch[self.spec.truth]]
        groups = batch[GROUP].tolist()
        asked = zip(batch[COMPLETIONS], groups, strict=True)
        verdicts = await gathered(
            [partial(self.judged, plain(completion), truths and truths[group]) for completion, group in asked]
        )
        self.counts.update(verdict.why for verdict in verdicts)
        self._tell()
        return batch.put(SCORES, torch.tensor([verdict.score for verdict in verdicts], dtype=torch.float32))

    def _tell(self) -> None:
        """Of each reason why completions were not judged: at the first, and when they have become twice as many."""
        for why, what in TOLD.items():
            if self.counts[why] >= 2 * self._told[why] and self.counts[why]:
                self._told[why] = self.counts[why]
                text = f"{self.spec.name}: {self.counts[why]:,} of {self.counts.total():,} completions {what}"
                self._run.bus.publish(Notice(text=text, phase=self._run.phase))


def plain(text: Any) -> Any:
    """The words of a text that may be messages; anything else as it is."""
    return " ".join(turn["content"] for turn in text) if isinstance(text, list) else text

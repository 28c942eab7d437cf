"""Scores that an environment gave."""

from __future__ import annotations

from truing.fields import EARNED, SCORES, Batch
from truing.run import Run
from truing_environment import plugin


class Earned:
    """Takes what was earned for the score."""

    def __init__(self, spec: plugin.Earned, run: Run) -> None:
        pass

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq]."""
        return batch.put(SCORES, batch[EARNED])

"""A scorer of length alone."""

from __future__ import annotations

import torch

from truing.fields import GROUP, SCORES, SEQ, Batch
from truing.run import Run
from truing_policy import menu_rewards


class Overlong:
    """Takes from a completion what it is too long."""

    def __init__(self, spec: menu_rewards.Overlong, run: Run) -> None:
        self._spec = spec

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], from -1 to 0."""
        lengths = torch.bincount(batch[SEQ], minlength=len(batch[GROUP]))
        over = (lengths - (self._spec.longest - self._spec.buffer)) / self._spec.buffer
        return batch.put(SCORES, -over.clamp(0, 1))

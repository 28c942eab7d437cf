"""Pairs of completions that were sampled and scored, so that any loss on pairs learns online."""

from __future__ import annotations

import torch

from truing.fields import CHOSEN, GROUP, IDS, REJECTED, SCORES, Batch
from truing.run import Run
from truing_preference import menu_others
from truing_tensor.groups import take


class BestAgainstWorst:
    """The best completion of a group against its worst."""

    def __init__(self, spec: menu_others.BestAgainstWorst, run: Run) -> None:
        self._least = spec.least

    def estimate(self, batch: Batch) -> Batch:
        """The batch with CHOSEN and REJECTED [pair], one pair a group; groups whose scores lie too close are left out.

        Of completions that score alike the first counts.
        """
        group, scores = batch[GROUP], batch[SCORES]
        pairs: dict[int, tuple[int, int]] = {}
        for number in range(len(batch[IDS])):
            mine = torch.nonzero(group == number).flatten()
            if not len(mine):
                continue
            best, worst = mine[scores[mine].argmax()], mine[scores[mine].argmin()]
            if float(scores[best] - scores[worst]) > self._least:
                pairs[number] = int(best), int(worst)
        chosen, rejected = (torch.tensor([pair[at] for pair in pairs.values()], dtype=torch.int64) for at in range(2))
        return take(batch.put_all({CHOSEN: chosen, REJECTED: rejected}), list(pairs))

"""Pairs of completions that were sampled and scored, so that any loss on pairs learns online."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, OPPONENT, REJECTED, SCORES, Batch
from truing.run import Run
from truing_preference import menu_online
from truing_tensor.groups import take


class BestAgainstWorst:
    """The best completion of a group against its worst."""

    def __init__(self, spec: menu_online.BestAgainstWorst, run: Run) -> None:
        self._least = spec.least
        self._across = spec.across

    def estimate(self, batch: Batch) -> Batch:
        """The batch with CHOSEN and REJECTED [pair], one pair a group. Left out are groups whose scores lie too close,
        and those whose best and worst say the same, whatever a scorer that wavers made of them.

        Of completions that score alike the first counts.
        """
        group, scores, said = batch[GROUP], batch[SCORES], batch[COMPLETIONS]
        pairs: dict[int, tuple[int, int]] = {}
        for number in range(len(batch[IDS])):
            mine = torch.nonzero(group == number).flatten()
            found = [
                (int(better[scores[better].argmax()]), int(worse[scores[worse].argmin()]))
                for better, worse in self._sides(batch, mine)
                if len(better) and len(worse)
            ]
            found = [(best, worst) for best, worst in found if said[best] != said[worst]]
            leads = [float(scores[best] - scores[worst]) for best, worst in found]
            if leads and max(leads) > self._least:
                pairs[number] = found[leads.index(max(leads))]
        chosen, rejected = (torch.tensor([pair[at] for pair in pairs.values()], dtype=torch.int64) for at in range(2))
        # What was said of other pairs, by the source or by a judge, is not said of these.
        kept = Batch({key: value for key, value in batch.items() if key.dims != "pair"})
        return take(kept.put_all({CHOSEN: chosen, REJECTED: rejected}), list(pairs))

    def _sides(self, batch: Batch, mine: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Where the better one of a pair may come from, and where the worse."""
        if not self._across:
            yield mine, mine
            return
        opponent = batch[OPPONENT][mine] == 1
        yield mine[~opponent], mine[opponent]
        yield mine[opponent], mine[~opponent]

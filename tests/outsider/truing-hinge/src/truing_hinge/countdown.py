"""Pairs about counting down."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from truing.fields import Batch, Group
from truing.run import Run
from truing.stage import DataInfo
from truing_tensor.groups import batch_of

if TYPE_CHECKING:
    from truing_hinge.plugin import Countdown as Spec


class Countdown:
    """One pair for each number to count down from, in an order that depends on the run's seed and the epoch."""

    def __init__(self, spec: Spec, run: Run) -> None:
        self._run = run
        self._groups = [_pair(start) for start in range(2, spec.highest + 1)]

    async def open(self) -> DataInfo:
        return DataInfo("countdown", f"countdown-{len(self._groups)}", len(self._groups), 0, "counting down")

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        order = random.Random(self._run.seed_for("countdown", epoch)).sample(self._groups, len(self._groups))
        for start in range(0, len(order), size):
            yield batch_of(order[start : start + size])


def _pair(start: int) -> Group:
    up = [str(number) for number in range(1, start + 1)]
    return Group(
        id=str(start),
        prompt=f"Count down from {start}: ",
        completions=[" ".join(reversed(up)), " ".join(up)],
        pairs=[(0, 1)],
    )

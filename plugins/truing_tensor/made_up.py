"""Sources that make their groups up: all of them follow from the options, so nothing is read."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable

from truing.fields import Batch, Group
from truing.run import Run
from truing.stage import DataInfo, SourceSpec
from truing_tensor.groups import batch_of


class MadeUp:
    """The source of a spec whose groups `make` makes up."""

    def __init__(self, spec: SourceSpec, run: Run, make: Callable[[], list[Group]]) -> None:
        self._spec, self._run, self._make = spec, run, make
        self._groups: list[Group] = []

    async def open(self) -> DataInfo:
        """Make all groups up."""
        self._groups = self._make()
        name = self._spec.name
        digest = f"{name}-{random.Random(repr(self._spec)).getrandbits(64):016x}"
        return DataInfo(name, digest, len(self._groups), 0, name)

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        """One pass, `size` groups at a time; `epoch` and the run's seed alone decide the order."""
        order = list(range(len(self._groups)))
        random.Random(self._run.seed_for("source", epoch)).shuffle(order)
        for start in range(0, len(order), size):
            yield batch_of([self._groups[at] for at in order[start : start + size]])

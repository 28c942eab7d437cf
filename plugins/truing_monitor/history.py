"""What a phase has reported so far, and how a number in it has changed.

On the holdout a number is compared with its first value as it is: the data are the same at every look. Batches differ,
so in training the mean of the first steps is compared with that of the last ones, and what chance does to the
difference is told along.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean, variance
from typing import NamedTuple

FEWEST = 5
"""A mean of fewer steps says too little of how they scatter."""
_PARTS = 5


class Change(NamedTuple):
    """A number then and now. error: standard error of the difference; 0 where both are of the same data."""

    first: float
    last: float
    error: float = 0.0


class Series:
    """The values of one metric and the steps they belong to; what is no finite number is left out."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Take down one more value."""
        if math.isfinite(value):
            self.steps.append(step)
            self.values.append(value)

    def until(self, step: int) -> int:
        """How many values belong to steps up to this one."""
        return bisect_right(self.steps, step)

    def cut(self, step: int) -> None:
        """Forget what came after a step."""
        del self.values[self.until(step) :]
        del self.steps[self.until(step) :]


class History:
    """The metrics of a phase: those of its steps (`trained`), and those of looks at the holdout (`looked`).

    length: the steps of the phase. smooth: how many steps a mean is taken over, at most a fifth of them. held: groups
    of the holdout, 0 if nobody said.
    """

    def __init__(self, smooth: int) -> None:
        self.trained: defaultdict[str, Series] = defaultdict(Series)
        self.looked: defaultdict[str, Series] = defaultdict(Series)
        self.length = 0
        self.held = 0
        self._smooth = smooth

    def add_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take down a step."""
        for key, value in metrics.items():
            self.trained[key].add(step, value)

    def add_look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take down a look at the holdout."""
        for key, value in metrics.items():
            self.looked[key].add(step, value)

    def go_back(self, step: int) -> None:
        """Forget what came after a step: a resumed phase takes those steps again."""
        for series in (*self.trained.values(), *self.looked.values()):
            series.cut(step)

    @property
    def window(self) -> int:
        """How many steps a mean is taken over."""
        return max(FEWEST, min(self._smooth, self.length // _PARTS))

    def in_training(self, key: str) -> Change | None:
        """From the mean of the first steps to that of the last; None before the two are apart."""
        values, size = self.trained[key].values, self.window
        if len(values) < 2 * size:
            return None
        first, last = values[:size], values[-size:]
        return Change(fmean(first), fmean(last), math.sqrt((variance(first) + variance(last)) / size))

    def on_holdout(self, key: str) -> Change | None:
        """From the first look to the last; None before there are two."""
        values = self.looked[key].values
        return Change(values[0], values[-1]) if len(values) > 1 else None

    def since_best(self, key: str) -> tuple[Change, int] | None:
        """In training, from the mean of those steps in a row at which it was largest to that of the last ones, and the
        step at which the largest ended; None before the two are apart."""
        series, size = self.trained[key], self.window
        values = series.values
        if len(values) < 2 * size:
            return None
        ends = range(size, len(values) - size + 1)
        best = max(ends, key=lambda end: fmean(values[end - size : end]))
        first, last = values[best - size : best], values[-size:]
        error = math.sqrt((variance(first) + variance(last)) / size)
        return Change(fmean(first), fmean(last), error), series.steps[best - 1]

    def level(self, key: str, step: int) -> float | None:
        """The mean of a metric over the last steps up to this one, at the beginning over the first ones."""
        series, size = self.trained[key], self.window
        end = max(series.until(step), size)
        return fmean(series.values[end - size : end]) if len(series.values) >= end else None

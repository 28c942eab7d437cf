"""When a phase has learned enough, and which of its looks was best: conditions on its own metrics.

The loop asks after every step and every look at the holdout, not an observer on its own time, so a run ends at the same
step whenever it is run, and a resumed one where it would have ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from truing.errors import RunFailed

HELD_OUT = "holdout/"

Watched = dict[str, tuple[float, int]]
"""Of a condition with patience, by its name: the best value so far, and how many looks ago that was."""


class Until(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition; the first that holds ends the phase."""

    metric: Annotated[
        str, Meta(description="a metric as it is reported; of the holdout with holdout/ before it: holdout/score")
    ]
    above: Annotated[float | None, Meta(description="enough when the metric is above this: a KL budget")] = None
    below: Annotated[float | None, Meta(description="enough when the metric is below this")] = None
    patience: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="enough when so many values in a row were no better than the best before them"),
    ] = None
    larger_is_better: Annotated[bool, Meta(description="with patience: whether the best is the largest")] = True

    @property
    def name(self) -> str:
        """What it is called among others."""
        return f"{self.metric} {'up' if self.larger_is_better else 'down'} {self.patience}"


class Mark(NamedTuple):
    """A look and what it found."""

    step: int
    value: float


class Best(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By what the best look is told. Of looks that are alike the first is best."""

    metric: Annotated[str, Meta(description="a metric of the holdout, with holdout/ before it: holdout/score")]
    larger_is_better: Annotated[bool, Meta(description="whether the best is the largest")] = True

    def better(self, step: int, metrics: Mapping[str, float], than: Mark | None) -> Mark | None:
        """A look, if it is better than the best before it. Raises RunFailed for a metric that nobody reports."""
        value = _reported("best", self.metric, metrics)
        worst = -math.inf if self.larger_is_better else math.inf
        best = than.value if than else worst
        return Mark(step, value) if (value > best if self.larger_is_better else value < best) else None


class Watch:
    """The conditions of a phase while it runs. watched: what is known from before a resume."""

    def __init__(self, conditions: Sequence[Until], watched: Watched) -> None:
        self._conditions = conditions
        self.watched = dict(watched)

    def enough(self, metrics: Mapping[str, float], held_out: bool) -> str:
        """Why it is enough now, "" if it is not. Raises RunFailed for a metric that nobody reports."""
        told = ""
        for condition in self._conditions:
            if condition.metric.startswith(HELD_OUT) != held_out:
                continue
            told = told or self._judged(condition, _reported("until", condition.metric, metrics))
        return told

    def _judged(self, condition: Until, value: float) -> str:
        said = f"{condition.metric} is {value:.4g}"
        if condition.above is not None:
            return f"{said}, above {condition.above:g}" if value > condition.above else ""
        if condition.below is not None:
            return f"{said}, below {condition.below:g}" if value < condition.below else ""
        best, since = self.watched.get(condition.name, (value, -1))
        better = since < 0 or (value > best if condition.larger_is_better else value < best)
        best, since = (value, 0) if better else (best, since + 1)
        self.watched[condition.name] = best, since
        return f"{said}, and for {since} looks was no better than {best:.4g}" if since == condition.patience else ""


def _reported(option: str, name: str, metrics: Mapping[str, float]) -> float:
    key = name.removeprefix(HELD_OUT)
    if key not in metrics:
        raise RunFailed(f'loop.{option} waits for "{name}", and what is reported is {", ".join(sorted(metrics))}')
    return metrics[key]

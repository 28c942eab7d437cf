"""What a run came to, from its events alone: it may be finished, have failed, or still be under way.

A step that was taken again after a resume counts as it was taken last.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median

import msgspec

from truing.events import (
    Alarm,
    BestKept,
    CheckpointSaved,
    DataOpened,
    DataSaved,
    Evaluated,
    Event,
    GroupDropped,
    GroupFailed,
    ModelSaved,
    Notice,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    RunStarted,
    StepDone,
)

BEST: Mapping[str, bool] = {"loss": False, "accuracy": True, "margin": True, "score": True}
"""Metrics of which one value is better than another, and whether the larger one is."""
_OF_THE_LOOP = ("speed/", "data/", "tokens")

Points = dict[int, Mapping[str, float]]


class Point(msgspec.Struct):
    """A value and the step it belongs to."""

    step: int
    value: float


class Track(msgspec.Struct):
    """Where a metric began, where it ended, and its best where there is such a thing."""

    first: Point
    last: Point
    best: Point | None = None


class PhaseSummary(msgspec.Struct):
    """One phase. status: of `PhaseEnded`; `begun` before it has ended, `waiting` before it has begun."""

    name: str
    status: str = "waiting"
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    data: list[DataOpened] = []
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    training: dict[str, Track] = {}
    holdout: dict[str, Track] = {}
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    alarms: list[Alarm] = []
    checkpoint: str = ""
    best: BestKept | None = None
    model: str = ""
    written: DataSaved | None = None


class Summary(msgspec.Struct):
    """One run. status: of `RunEnded`; `begun` before it has ended, which a killed run never does.

    seconds: that it was worked on. heard: when its last event was, in seconds since 1970.
    """

    name: str = ""
    folder: str = ""
    status: str = "begun"
    reason: str = ""
    seconds: float = 0.0
    heard: float = 0.0
    resumed: int = 0
    digest: str = ""
    commit: str = ""
    phases: list[PhaseSummary] = []
    notes: list[str] = []


def summarise(events: Iterable[Event]) -> Summary:
    """The summary of a run's events, in their order."""
    run = Summary()
    phases: dict[str, _Phase] = {}
    for event in events:
        if run.status == "begun" and run.heard and not isinstance(event, RunStarted):
            run.seconds += event.time - run.heard
        run.heard = event.time
        match event:
            case RunStarted():
                run.name, run.folder, run.digest, run.commit = event.name, event.folder, event.digest, event.commit
                run.status, run.reason, run.resumed = "begun", "", run.resumed + event.resumed
                for name in event.phases:
                    phases.setdefault(name, _Phase(name)).rest()
            case RunEnded():
                run.status, run.reason = event.status, event.reason
            case _:
                name = getattr(event, "phase", None)
                if name is not None and (name or "" in phases):
                    phases.setdefault(name, _Phase(name)).add(event)
        if isinstance(event, Notice):
            run.notes.append(f"{event.phase}: {event.text}" if event.phase else event.text)
    run.phases = [phase.summary() for phase in phases.values()]
    return run


class _Phase:
    """What is taken down of a phase while its events go by."""

    def __init__(self, name: str) -> None:
        self._told = PhaseSummary(name)
        self._steps: Points = {}
        self._looks: Points = {}
        self._bests: dict[int, BestKept] = {}
        self._dropped: dict[str, str] = {}
        self._failed: dict[tuple[int, str], str] = {}
        self._data: dict[str, DataOpened] = {}
        self._began = 0.0

    def add(self, event: Event) -> None:
        told = self._told
        match event:
            case DataOpened():
                self._data[event.role] = event
            case PhaseStarted():
                told.status, told.steps, self._began = "begun", event.steps, event.time
                self._steps = {step: metrics for step, metrics in self._steps.items() if step <= event.start}
                self._looks = {step: metrics for step, metrics in self._looks.items() if step <= event.start}
                self._bests = {step: best for step, best in self._bests.items() if step <= event.start}
            case StepDone():
                self._steps[event.step] = event.metrics
            case Evaluated():
                self._looks[event.step] = event.metrics
            case BestKept():
                self._bests[event.step] = event
            case GroupDropped():
                self._dropped[event.id] = event.reason
            case GroupFailed():
                self._failed[event.wave, event.id] = f"{event.stage}: {event.error}"
            case Alarm():
                told.alarms.append(event)
            case CheckpointSaved():
                told.checkpoint = event.path
            case ModelSaved():
                told.model, told.checkpoint = event.path, ""
            case DataSaved():
                told.written = event
            case PhaseEnded():
                told.status = event.status
            case _:
                pass
        if self._began:
            told.seconds += event.time - self._began
            self._began = event.time if told.status == "begun" else 0.0

    def rest(self) -> None:
        """The run begins anew: what passed since a kill was no work."""
        self._began = 0.0

    def summary(self) -> PhaseSummary:
        told = self._told
        told.step = max(self._steps, default=0)
        told.best = self._bests[max(self._bests)] if self._bests else None
        told.data = list(self._data.values())
        told.dropped = dict(Counter(self._dropped.values()).most_common())
        told.failed = dict(Counter(self._failed.values()).most_common())
        told.training, told.holdout = _tracks(self._steps), _tracks(self._looks)
        told.tokens_per_second = _median(self._steps, "speed/tokens_per_second")
        told.step_seconds = _median(self._steps, "speed/step_seconds")
        return told


def _median(points: Points, key: str) -> float | None:
    values = [metrics[key] for metrics in points.values() if key in metrics]
    return median(values) if values else None


def _tracks(points: Points) -> dict[str, Track]:
    """Every metric that says something of the model, in the order they are reported."""
    series: dict[str, list[Point]] = {}
    for step, metrics in points.items():
        for key, value in metrics.items():
            if not key.startswith(_OF_THE_LOOP):
                series.setdefault(key, []).append(Point(step, value))
    return {key: Track(values[0], values[-1], _best(key, values)) for key, values in series.items()}


def _best(key: str, values: list[Point]) -> Point | None:
    sound = [point for point in values if math.isfinite(point.value)]
    larger = BEST.get(key.partition("/")[0]) if key.startswith("loss/") else BEST.get(key)
    if larger is None or not sound:
        return None
    return (max if larger else min)(sound, key=lambda point: point.value)

"""What is worth a line: events in, short sentences out.

Of a group that is dropped, and of most steps, nothing is said at once; they are counted and told together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from truing.events import (
    Alarm,
    CheckpointSaved,
    DataOpened,
    DataSaved,
    Evaluated,
    Event,
    GroupDropped,
    ModelSaved,
    Notice,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    RunStarted,
    StepDone,
)

Tone = Literal["", "good", "bad"]

KEY_METRICS = ("loss", "accuracy", "margin", "score")
_FIRST_FEW = 4


class Line(NamedTuple):
    """One line for a person."""

    text: str
    tone: Tone = ""


class Pace:
    """How fast a phase goes, from the times of its events; evaluations and checkpoints count."""

    def __init__(self, started: PhaseStarted) -> None:
        self._began, self._start = started.time, started.start

    def left(self, event: StepDone) -> str:
        """The time that the remaining steps will take, `1:05` or `2:00:00`."""
        taken = event.step - self._start
        return clock((event.time - self._began) / taken * (event.steps - event.step)) if taken > 0 else "?"


class Report:
    """Remembers what a sentence needs from before: first evaluations and dropped groups."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began: dict[str, float] = {}
        self._first: dict[str, Mapping[str, float]] = {}
        self._dropped: dict[str, dict[str, str]] = {}

    def lines(self, event: Event) -> Iterator[Line]:
        """What to say of an event."""
        match event:
            case RunStarted():
                yield from self._run_started(event)
            case DataOpened():
                yield self._data(event)
            case PhaseStarted():
                self._began[event.phase] = event.time
                yield self._phase_started(event)
            case Evaluated():
                yield self._evaluated(event)
            case GroupDropped():
                self._dropped.setdefault(event.phase, {})[event.id] = event.reason
            case CheckpointSaved():
                yield self._of(event.phase, f"checkpoint {event.path}")
            case ModelSaved():
                yield self._of(event.phase, f"model {event.path}", "good")
            case DataSaved():
                yield self._of(event.phase, f"{_count(event.groups, 'group')} in {event.path}", "good")
            case Alarm():
                yield self._of(event.phase, f"step {event.step}, alarm {event.name}: {event.text}", "bad")
            case Notice():
                yield self._of(event.phase, f"note: {event.text}", "bad")
            case PhaseEnded():
                yield from self._phase_ended(event)
            case RunEnded():
                yield from self._run_ended(event)
            case _:
                pass

    def name(self, phase: str) -> str:
        """A phase as it is called on the screen."""
        return phase or self._name

    def step(self, event: StepDone, left: str) -> Line:
        """One step, in one line."""
        told = [f"step {event.step}/{event.steps}", *numbers(event.metrics), f"{left} left"]
        return self._of(event.phase, "  ".join(told))

    def _of(self, phase: str, text: str, tone: Tone = "") -> Line:
        return Line(f"{self.name(phase)}: {text}", tone)

    def _run_started(self, event: RunStarted) -> Iterator[Line]:
        self._began["/"] = event.time
        phases = f", phases {', '.join(event.phases)}" if len(event.phases) > 1 else ""
        yield self._of("", f"{'goes on' if event.resumed else 'begins'} in {event.folder}{phases}")

    def _data(self, event: DataOpened) -> Line:
        purpose = "held out" if event.role == "holdout" else "to learn from"
        skipped = f" ({_count(event.skipped, 'unusable row')} left out)" if event.skipped else ""
        return self._of(event.phase, f"{_count(event.groups, 'group')} {purpose}: {event.origin}{skipped}")

    def _phase_started(self, event: PhaseStarted) -> Line:
        batch = event.options.get("loop.batch")
        size = f" of {_count(batch, 'group')}" if isinstance(batch, int) else ""
        told = [f"{_count(event.steps, 'step')}{size}"]
        told += [
            f"{table} {event.options[f'{table}.use']}" for table in ("model", "loss") if f"{table}.use" in event.options
        ]
        told += [f"from step {event.start}"] if event.start else []
        return self._of(event.phase, ", ".join(told))

    def _evaluated(self, event: Evaluated) -> Line:
        first = self._first.setdefault(event.phase, event.metrics)
        keys = [key for key in KEY_METRICS if key in event.metrics] or list(event.metrics)[:_FIRST_FEW]
        told = [_change(key, first.get(key), event.metrics[key], first is event.metrics) for key in keys]
        return self._of(event.phase, f"step {event.step}, held out: {', '.join(told)}")

    def _phase_ended(self, event: PhaseEnded) -> Iterator[Line]:
        dropped = self._dropped.get(event.phase)
        if dropped:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in Counter(dropped.values()).most_common(3))
            yield self._of(event.phase, f"{_count(len(dropped), 'group')} dropped ({reasons})", "bad")
        if event.phase:
            yield self._of(event.phase, f"{event.status}{self._took(event.phase, event)}", _tone(event.status))

    def _run_ended(self, event: RunEnded) -> Iterator[Line]:
        reason = f": {event.reason}" if event.reason else ""
        yield self._of("", f"{event.status}{self._took('/', event)}{reason}", _tone(event.status))

    def _took(self, what: str, event: Event) -> str:
        return f" after {clock(event.time - self._began[what])}" if what in self._began else ""


def numbers(metrics: Mapping[str, float]) -> Iterator[str]:
    """The metrics of a step that a person looks at."""
    yield from (f"{key} {metrics[key]:.4g}" for key in KEY_METRICS if key in metrics)
    if "speed/tokens_per_second" in metrics:
        yield f"{metrics['speed/tokens_per_second']:,.0f} tokens/s"
    if metrics.get("data/dropped"):
        yield f"{metrics['data/dropped']:.0f} dropped"


def clock(seconds: float) -> str:
    """A span of time: `0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _change(key: str, first: float | None, now: float, only: bool) -> str:
    return f"{key} {now:.4g}" if only or first is None else f"{key} {first:.4g} -> {now:.4g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _tone(status: str) -> Tone:
    return "good" if status == "finished" else "bad"

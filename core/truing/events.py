"""What happened: small, frozen, and plain enough to be a line of JSON in the run folder.

The bus stamps `number` and `time` when an event is published. A plugin may define events of its own; whoever reads a
journal without that plugin skips them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The parent of all events. `number` counts them within a run, across resumes; `time` is in seconds since 1970."""

    number: int = -1
    time: float = 0.0


class RunStarted(Event, frozen=True, kw_only=True):
    name: str
    folder: str
    digest: str
    """of the resolved recipe"""
    phases: list[str]
    versions: dict[str, str]
    commit: str = ""
    resumed: bool = False


class PhaseStarted(Event, frozen=True, kw_only=True):
    phase: str
    options: dict[str, Any]
    """every option of the phase with its value, flattened: `loss.beta`"""
    steps: int
    start: int = 0
    """steps that were already taken before a resume"""


class DataOpened(Event, frozen=True, kw_only=True):
    phase: str
    role: str
    """`source` or `holdout`"""
    name: str
    digest: str
    groups: int
    skipped: int
    """rows left out because they were unusable"""
    origin: str


class StepDone(Event, frozen=True, kw_only=True):
    phase: str
    step: int
    steps: int
    epoch: int
    metrics: dict[str, float]


class Evaluated(Event, frozen=True, kw_only=True):
    phase: str
    step: int
    metrics: dict[str, float]


class SamplesShown(Event, frozen=True, kw_only=True):
    """Some of what was sampled for a look at the holdout, for people to read."""

    phase: str
    step: int
    rows: list[dict[str, Any]]
    """`id`, `prompt`, `completion` and `score` of each completion"""


class WaveAdmitted(Event, frozen=True, kw_only=True):
    """The groups that one step is to learn from were read, to be sampled.

    Each of them ends in one `GroupTrained`, `GroupWritten`, `GroupDropped` or `GroupFailed` of the same wave. A wave
    that is admitted again, after a resume, begins anew: what was said of it before does not count.
    """

    phase: str
    wave: int
    """counted within the phase, from 1"""
    ids: list[str]


class GroupTrained(Event, frozen=True, kw_only=True):
    """What one step of an online phase learned from."""

    phase: str
    step: int
    wave: int
    ids: list[str]
    digest: str
    """a short name for exactly these completions and scores"""


class GroupWritten(GroupTrained, frozen=True, kw_only=True):
    """What one step of a phase that makes data wrote down."""


class GroupDropped(Event, frozen=True, kw_only=True):
    """A group that was read and will not be trained on."""

    phase: str
    id: str
    reason: str
    wave: int = 0
    """of an online phase, the wave it was admitted with"""


class GroupFailed(Event, frozen=True, kw_only=True):
    """A group that a stage failed on, also when it was asked for that group alone."""

    phase: str
    id: str
    stage: str
    error: str
    wave: int = 0
    """the wave it was read with; 0: it is of the holdout"""


class StageEnded(Event, frozen=True, kw_only=True):
    """A piece of work is done: `generate`, `score`, `estimate`, `learn`, `publish`, `evaluate` or `checkpoint`."""

    phase: str
    stage: str
    wave: int
    """the wave it was done for; 0: none, or the holdout"""
    began: float
    """in seconds since 1970"""
    seconds: float
    version: int = -1
    """of the weights that completions were sampled from; -1: nothing was sampled, or under several versions"""
    ids: list[str] = []
    """the groups it was done for, where they are not all of the wave"""


class CheckpointSaved(Event, frozen=True, kw_only=True):
    phase: str
    step: int
    path: str


class BestKept(Event, frozen=True, kw_only=True):
    """A look at the holdout was better than all before it, and its weights were kept (`loop.best`)."""

    phase: str
    step: int
    metric: str
    value: float


class ModelSaved(Event, frozen=True, kw_only=True):
    phase: str
    path: str
    facts: dict[str, Any]
    """what the model says of itself: architecture, parameters, precision"""
    step: int = -1
    """after which step it was as it is: the last, or that of the best look; -1: nobody says"""


class DataSaved(Event, frozen=True, kw_only=True):
    """A phase that makes data is done."""

    phase: str
    path: str
    groups: int


class Notice(Event, frozen=True, kw_only=True):
    """Something a person should know that is not an error: a fallback taken, an observer that stopped."""

    text: str
    phase: str = ""


class Alarm(Event, frozen=True, kw_only=True):
    """The numbers of a phase look wrong, and training goes on. name: what is wrong, `displacement` for example."""

    phase: str
    step: int
    name: str
    text: str
    """what was seen, and what helps"""
    values: dict[str, float]
    """the numbers it was seen in"""


class PhaseEnded(Event, frozen=True, kw_only=True):
    phase: str
    status: str


class RunEnded(Event, frozen=True, kw_only=True):
    """status: `finished`, `failed` or `interrupted`."""

    status: str
    reason: str = ""


def _kinds(of: type[Event]) -> Iterable[type[Event]]:
    for child in of.__subclasses__():
        yield child
        yield from _kinds(child)


def encode(event: Event) -> bytes:
    """One line of JSON, without its newline. JSON has no NaN: a metric that is one is spelled `"nan"`."""
    metrics: Mapping[str, float] = getattr(event, "metrics", {})
    if all(map(math.isfinite, metrics.values())):
        return msgspec.json.encode(event)
    spelled = {key: value if math.isfinite(value) else str(value) for key, value in metrics.items()}
    return msgspec.json.encode({**msgspec.to_builtins(event), "metrics": spelled})


def decode(line: bytes) -> Event | None:
    """The event of one line, or None if its kind is not known here. Raises msgspec.DecodeError on a torn line."""
    tag = msgspec.json.decode(line, type=Mapping[str, Any]).get("type")
    known = {kind.__name__: kind for kind in _kinds(Event)}
    return msgspec.json.decode(line, type=known[tag], strict=False) if tag in known else None

"""What a phase came to: how busy its devices were, how old what it learned from, and what waited for whom.

It is read off events, so a run and a simulation are told in the same way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from truing.events import Event, StageEnded, StepDone, WaveAdmitted
from truing_simulate.command import STAGES

_WARM = 2
"""steps at the beginning that are not counted, beside those that fill the loop"""
_AT_ONCE = 1e-6
"""seconds that are no wait"""
_ONE_BY_ONE = ("generate", "estimate", "learn", "publish")
"""what a device does one after another that samples and learns"""


class Wait(msgspec.Struct, frozen=True):
    """Waves that wait: how many in the mean over time, and at most."""

    mean: float
    most: int


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """steps: that were counted. step_seconds: from one to the next. busy: share of the time, by stage. ages: share of
    the steps, by how many versions old their oldest completion was. waiting: waves, by what they wait for."""

    steps: int
    step_seconds: float
    tokens_per_second: float
    busy: Mapping[str, float]
    ages: Mapping[int, float]
    waiting: Mapping[str, Wait]

    @property
    def age(self) -> float:
        """The mean age."""
        return sum(age * share for age, share in self.ages.items())


def course_of(events: Sequence[Event], staleness: int, shared: bool) -> Course:
    """Of one phase, its warm-up left out, and its end, where nothing is sampled any more. shared: one device samples
    and learns, so that the time of a piece of work has waiting in it."""
    done = [event for event in events if isinstance(event, StepDone)]
    skip = min(_WARM + staleness, max(len(done) - 2, 0))
    counted = done[skip : len(done) - staleness] if len(done) - staleness - skip >= 2 else done[skip:]
    began, ended = counted[0].time, counted[-1].time
    works = list(worked(events, shared))
    count = len(counted) - 1
    ages = Counter(round(event.metrics["sample/staleness"]) for event in counted[1:])
    return Course(
        steps=count,
        step_seconds=(ended - began) / count,
        tokens_per_second=sum(event.metrics["tokens"] for event in counted[1:]) / (ended - began),
        busy={
            stage: sum(
                max(0.0, min(work.began + work.seconds, ended) - max(work.began, began))
                for work in works
                if work.stage == stage
            )
            / (ended - began)
            for stage in STAGES
        },
        ages={age: ages[age] / count for age in sorted(ages)},
        waiting={
            "for the scorer": _waiting(events, "generate", "score", began, ended),
            "for the learner": _waiting(events, "score", "learn", began, ended),
        },
    )


def worked(events: Iterable[Event], shared: bool) -> Iterator[StageEnded]:
    """Pieces of work, each from when it really began: on a shared device behind the one before it."""
    free = 0.0
    for event in events:
        if not isinstance(event, StageEnded):
            continue
        if shared and event.stage in _ONE_BY_ONE:
            end = event.began + event.seconds
            began = min(max(event.began, free), end)
            free = max(free, end)
            yield msgspec.structs.replace(event, began=began, seconds=end - began)
        else:
            yield event


def _waiting(events: Sequence[Event], behind: str, before: str, began: float, ended: float) -> Wait:
    """Waves between the end of one stage and the beginning of another."""
    since: dict[int, float] = {}
    marks: list[tuple[float, int]] = []
    for event in events:
        match event:
            case WaveAdmitted():
                since.pop(event.wave, None)
            case StageEnded() if event.stage == behind and event.wave:
                since[event.wave] = event.began + event.seconds
            case StageEnded() if event.stage == before and since.get(event.wave, math.inf) + _AT_ONCE < event.began:
                marks += [(since.pop(event.wave), 1), (event.began, -1)]
            case _:
                pass
    now = most = 0
    total, at = 0.0, began
    for moment, change in sorted(marks):
        inside = min(max(moment, began), ended)
        total, at = total + now * (inside - at), inside
        now += change
        most = max(most, now) if moment >= began else most
    return Wait(total / (ended - began), most)

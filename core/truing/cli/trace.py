"""The timeline of a run in the Trace Event Format, which chrome://tracing and ui.perfetto.dev draw.

A phase is a process, a stage is a lane in it; a wave is a bar from when it was admitted to when it was learned from,
and a group that was lost is a mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from truing.events import (
    CheckpointSaved,
    Event,
    GroupDropped,
    GroupFailed,
    GroupTrained,
    PhaseStarted,
    StageEnded,
    WaveAdmitted,
)

_STAGES = ("generate", "score", "estimate", "learn", "publish", "evaluate", "checkpoint")


def trace_of(events: Iterable[Event]) -> dict[str, Any]:
    """The trace of a run's events: times in microseconds since the first."""
    found: list[dict[str, Any]] = []
    start = 0.0
    phases: dict[str, int] = {}
    for event in events:
        start = start or event.time
        at = {"ts": round((event.time - start) * 1e6)}
        name = getattr(event, "phase", None)
        if name is None:
            continue
        if name not in phases:
            phases[name] = len(phases) + 1
            found += _names(phases[name], name)
        own = {"pid": phases[name]}
        match event:
            case StageEnded():
                found.append(own | _piece(event, start))
            case WaveAdmitted():
                found.append(own | at | _bar("b", event.wave) | {"args": {"groups": event.ids}})
            case GroupTrained():
                found.append(own | at | _bar("e", event.wave) | {"args": {"step": event.step}})
            case GroupDropped() | GroupFailed():
                why = event.reason if isinstance(event, GroupDropped) else f"{event.stage}: {event.error}"
                mark = {"ph": "i", "s": "p", "tid": 0, "name": f"{event.id} is lost", "args": {"why": why}}
                found.append(own | at | mark)
            case PhaseStarted() | CheckpointSaved():
                found.append(own | at | {"ph": "i", "s": "p", "tid": 0, "name": type(event).__name__})
            case _:
                pass
    return {"traceEvents": found, "displayTimeUnit": "ms"}


def _piece(event: StageEnded, start: float) -> dict[str, Any]:
    lane = _STAGES.index(event.stage) + 1 if event.stage in _STAGES else len(_STAGES) + 1
    told = {"wave": event.wave} if event.wave else {}
    told |= {"version": event.version} if event.version >= 0 else {}
    return {
        "ph": "X",
        "tid": lane,
        "ts": round((event.began - start) * 1e6),
        "dur": round(event.seconds * 1e6),
        "cat": event.stage,
        "name": f"{event.stage} {event.wave}" if event.wave else event.stage,
        "args": told | ({"groups": event.ids} if event.ids else {}),
    }


def _bar(which: str, wave: int) -> dict[str, Any]:
    return {"ph": which, "cat": "wave", "id": wave, "tid": 0, "name": f"wave {wave}"}


def _names(process: int, phase: str) -> list[dict[str, Any]]:
    named = [{"ph": "M", "pid": process, "name": "process_name", "args": {"name": phase or "the run"}}]
    lanes = enumerate(("waves", *_STAGES))
    return named + [
        {"ph": "M", "pid": process, "tid": lane, "name": "thread_name", "args": {"name": stage}}
        for lane, stage in lanes
    ]

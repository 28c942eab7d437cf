"""Whether two runs of the same recipe came to the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from truing.events import Event, GroupTrained, StepDone
from truing.journal import Journal
from truing.whole import sum_of

Steps = dict[tuple[str, int], tuple[str, Mapping[str, str]]]
_OF_THE_CLOCK = "speed/"


def departures(one: Journal, other: Journal) -> list[str]:
    """Where two runs differ, in words: for each phase its first step with other groups, completions, scores or numbers,
    and every file of a model or of data that is not the same, byte for byte. Empty if nowhere.

    Speeds do not count. A step that was taken again after a resume counts as it was taken last.
    """
    first, second = (_steps(event for _, event in journal.events()) for journal in (one, other))
    told: dict[str, str] = {}
    for phase, step in sorted(first.keys() | second.keys()):
        what = _differs(first.get((phase, step)), second.get((phase, step)))
        if what and phase not in told:
            told[phase] = f"{f'{phase}: ' if phase else ''}step {step} {what}"
    return [*told.values(), *_files(one.folder, other.folder)]


def _steps(events: Iterable[Event]) -> Steps:
    batches: dict[tuple[str, int], str] = {}
    steps: dict[tuple[str, int], Mapping[str, str]] = {}
    for event in events:
        match event:
            case GroupTrained():
                batches[event.phase, event.step] += event.digest
            case StepDone():
                batches[event.phase, event.step] = ""
                steps[event.phase, event.step] = {
                    key: repr(value) for key, value in event.metrics.items() if not key.startswith(_OF_THE_CLOCK)
                }
            case _:
                pass
    return {key: (batches[key], numbers) for key, numbers in steps.items()}


def _differs(one: tuple[str, Mapping[str, str]] | None, other: tuple[str, Mapping[str, str]] | None) -> str:
    if one is None or other is None:
        return "is in one of the two runs alone"
    if one[0] != other[0]:
        return "learned from other completions or scores"
    unlike = [key for key in one[1].keys() | other[1].keys() if one[1].get(key) != other[1].get(key)]
    named = ", ".join(f"{key} ({one[1].get(key)}, {other[1].get(key)})" for key in sorted(unlike))
    return f"has other numbers: {named}" if unlike else ""


def _files(one: Path, other: Path) -> list[str]:
    """Files of models and data that are not the same."""

    def made(folder: Path) -> dict[str, str]:
        kept = [*folder.glob("**/model/**/*.safetensors"), *folder.glob("**/data/groups.jsonl")]
        return {str(path.relative_to(folder)): sum_of(path) for path in kept}

    first, second = made(one), made(other)
    names = sorted(first.keys() | second.keys())
    return [f"{name} is not the same" for name in names if first.get(name) != second.get(name)]

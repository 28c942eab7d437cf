"""`truing report`: what a run came to, or has come to so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.cli import output
from truing.cli.options import Json
from truing.errors import shown

if TYPE_CHECKING:
    from truing.cli.summary import PhaseSummary, Point, Summary, Track

_HELD_OUT = ("HELD OUT", "LAST", "BEST")


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    json: Json = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Write its timeline to a file that ui.perfetto.dev draws.", show_default=False),
    ] = None,
) -> None:
    """Say what a run came to.

    It reads events.jsonl alone, so the run may be under way, have failed, or have been copied here.
    """
    import msgspec

    from truing.cli.summary import summarise
    from truing.cli.trace import trace_of
    from truing.errors import Problem, UserError
    from truing.journal import Journal

    if not (folder / "events.jsonl").is_file():
        mend = "name a folder that `truing run` made"
        raise UserError(Problem(str(folder), "there is no events.jsonl here, so this is no run folder", mend))
    if trace:
        trace.write_bytes(msgspec.json.encode(trace_of(event for _, event in Journal(folder).events())))
    summary = summarise(event for _, event in Journal(folder).events())
    if json:
        output.json(summary)
    else:
        _print(summary, folder)


def _print(run: Summary, folder: Path) -> None:
    print(shown(f"{run.name or folder.name}: {_ended(run)}"))
    facts = [("folder", run.folder), ("recipe", run.digest), ("commit", run.commit)]
    facts += [("resumed", "once" if run.resumed == 1 else f"{run.resumed} times")] if run.resumed else []
    facts += [("note", note) for note in dict.fromkeys(run.notes)]
    _print_facts(facts)
    for phase in run.phases:
        print()
        _print_phase(phase)


def _ended(run: Summary) -> str:
    if not run.heard:
        return "nothing has happened yet"
    if run.status == "begun":
        return f"under way, or killed; last heard of {_clock(time.time() - run.heard)} ago"
    return f"{run.status} after {_clock(run.seconds)}" + (f": {run.reason}" if run.reason else "")


def _print_phase(phase: PhaseSummary) -> None:
    name = f"{phase.name}: " if phase.name else ""
    if phase.status == "waiting":
        print(f"{name}not begun")
        return
    status = f"{'not ended' if phase.status == 'begun' else phase.status}, " if phase.name else ""
    print(f"{name}{status}{phase.step:,} of {phase.steps:,} steps in {_clock(phase.seconds)}")
    _print_facts(_facts(phase))
    if phase.training or phase.holdout:
        print()
        _print_metrics(phase)


def _facts(phase: PhaseSummary) -> Iterator[tuple[str, str]]:
    for data in phase.data:
        skipped = f", {data.skipped:,} unusable rows left out" if data.skipped else ""
        yield data.role, f"{data.groups:,} groups{skipped}: {data.origin}"
    if phase.dropped:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in phase.dropped.items())
        yield "dropped", f"{sum(phase.dropped.values()):,} groups ({reasons})"
    if phase.failed:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in phase.failed.items())
        yield "failed", f"{sum(phase.failed.values()):,} groups ({reasons})"
    if phase.tokens_per_second is not None and phase.step_seconds is not None:
        yield "speed", f"{phase.tokens_per_second:,.0f} tokens/s, {phase.step_seconds:.3g} s a step (medians)"
    for alarm in phase.alarms:
        yield "alarm", f"step {alarm.step}, {alarm.name}: {alarm.text}"
    if phase.best:
        yield "best look", f"step {phase.best.step:,}: {phase.best.metric} is {phase.best.value:.4g}"
    if phase.checkpoint:
        yield "checkpoint", phase.checkpoint
    if phase.model:
        yield "model", phase.model
    if phase.written:
        yield "data", f"{phase.written.groups:,} groups: {phase.written.path}"


def _print_facts(facts: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
    for what, told in facts:
        if told:
            print(f"  {what:<12}{shown(told)}")


def _print_metrics(phase: PhaseSummary) -> None:
    keys = dict.fromkeys([*phase.training, *phase.holdout])
    heads = ("METRIC", "FIRST", "LAST", "BEST", *(_HELD_OUT if phase.holdout else ()))
    rows = [
        [key, *_cells(phase.training.get(key)), *(_cells(phase.holdout.get(key)) if phase.holdout else ())]
        for key in keys
    ]
    output.table(heads, rows)


def _cells(track: Track | None) -> tuple[str, str, str]:
    if track is None:
        return "", "", ""
    return f"{track.first.value:.4g}", f"{track.last.value:.4g}", _at(track.best)


def _at(best: Point | None) -> str:
    return f"{best.value:.4g} at {best.step}" if best else ""


def _clock(seconds: float) -> str:
    """A span of time: `0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

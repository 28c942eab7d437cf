"""The same report on three kinds of paper: plain lines, a bar in a terminal, lines of JSON."""

from __future__ import annotations

import atexit
from typing import Protocol, TextIO

from rich.console import Console as Screen
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from truing import events
from truing.errors import shown
from truing.events import Event, PhaseEnded, PhaseStarted, RunEnded, StepDone
from truing_console.report import Line, Pace, Report, numbers

_STYLES = {"": "", "good": "green", "bad": "yellow"}


class Face(Protocol):
    """Shows events, and leaves the screen as it found it."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Quiet:
    """Says nothing."""

    def show(self, event: Event) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Json:
    """Every event as one line, for another program."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        """Write the event as it stands in the journal."""
        self._out.write(events.encode(event).decode() + "\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is left open."""


class Plain:
    """Lines without colour, for a file or a pipe: the first step, the last, and every so many between."""

    def __init__(self, err: TextIO, report: Report, every: int) -> None:
        self._err = err
        self._report = report
        self._every = every
        self._pace: Pace | None = None

    def show(self, event: Event) -> None:
        """Say what is worth a line."""
        if isinstance(event, PhaseStarted):
            self._pace = Pace(event)
        if (
            isinstance(event, StepDone)
            and self._pace
            and (event.step in (1, event.steps) or event.step % self._every == 0)
        ):
            self._say(self._report.step(event, self._pace.left(event)))
        for line in self._report.lines(event):
            self._say(line)

    def close(self) -> None:
        """Nothing is left open."""

    def _say(self, line: Line) -> None:
        self._err.write(shown(line.text) + "\n")
        self._err.flush()


class Bar:
    """A bar for the phase that runs, and lines above it. Colours only where NO_COLOR is not set."""

    def __init__(self, err: TextIO, report: Report, force: bool) -> None:
        self._report = report
        self._screen = Screen(file=err, force_terminal=True if force else None, highlight=False)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._pace: Pace | None = None

    def show(self, event: Event) -> None:
        """Move the bar, or say something above it."""
        if isinstance(event, StepDone) and self._progress and self._pace:
            told = "  ".join([*numbers(event.metrics), f"{self._pace.left(event)} left"])
            self._progress.update(self._task, completed=event.step, told=told)
        if isinstance(event, PhaseEnded | RunEnded):
            self.close()
        for line in self._report.lines(event):
            self._screen.print(Text(shown(line.text), style=_STYLES[line.tone]), soft_wrap=True)
        if isinstance(event, PhaseStarted):
            self._begin(event)

    def close(self) -> None:
        """Take the bar down and give the cursor back."""
        if self._progress:
            self._progress.stop()
            atexit.unregister(self._progress.stop)
            self._progress = None

    def _begin(self, event: PhaseStarted) -> None:
        self._pace = Pace(event)
        told = TextColumn("{task.fields[told]}", markup=False)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), told, console=self._screen
        )
        self._task = self._progress.add_task(
            self._report.name(event.phase), total=event.steps, completed=event.start, told=""
        )
        # A run that is torn away never closes its observers, and a hidden cursor outlives the process.
        atexit.register(self._progress.stop)
        self._progress.start()

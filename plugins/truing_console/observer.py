"""The observer: which face to show, and where.

The faces import rich, which takes a while; so they are imported when the run begins and not with this module.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from truing.events import Event
from truing.run import Run
from truing_console.plugin import Console
from truing_console.report import Report

if TYPE_CHECKING:
    from truing_console.faces import Face


class ConsoleObserver:
    """Shows a run on stderr, or tells it to a program on stdout. out, err: other streams, for tests."""

    def __init__(self, options: Console, run: Run, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._options = options
        self._run = run
        self._out = out
        self._err = err
        self._face: Face | None = None

    async def open(self) -> None:
        """Choose how to show things."""
        self._face = self._choose()

    async def observe(self, event: Event) -> None:
        """Show one event."""
        assert self._face, "observed before it was opened"
        self._face.show(event)

    async def close(self) -> None:
        """Leave the screen in order, whether the run said that it ended or not."""
        if self._face:
            self._face.close()

    def _choose(self) -> Face:
        from truing_console import faces

        mode, err = self._options.mode, self._err or sys.stderr
        report = Report(self._run.name)
        if mode == "quiet":
            return faces.Quiet()
        if mode == "json":
            return faces.Json(self._out or sys.stdout)
        if mode == "bar" or (mode == "auto" and _draws(err)):
            return faces.Bar(err, report, force=mode == "bar")
        return faces.Plain(err, report, self._options.every)


def _draws(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")

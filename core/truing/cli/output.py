"""How it looks: results on stdout as a table or as JSON, everything else on stderr.

A table on a terminal is drawn by rich, which minds NO_COLOR and the width; anywhere else it is plain text in columns,
for grep and for diff.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from truing.errors import Problem, shown


def say(text: str) -> None:
    """A word to the person, on stderr."""
    print(shown(text), file=sys.stderr, flush=True)


def say_problems(problems: Iterable[Problem]) -> None:
    """All problems, each where it is."""
    for problem in problems:
        say(str(problem))


def say_unexpected(error: BaseException, shown: bool, kept: str = "") -> None:
    """An error nobody foresaw: one sentence, or its traceback if that was asked for. kept: where the traceback is."""
    if shown:
        traceback.print_exception(error)
        return
    say(f"truing did not expect this: {type(error).__name__}: {error}")
    say(f"the traceback is in {kept}" if kept else "set TRUING_TRACEBACK=1 to see where it came from")


def json(value: Any) -> None:
    """A value as JSON on stdout."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings; the last column may be long."""
    rows = [list(map(shown, row)) for row in rows]
    if sys.stdout.isatty():
        _drawn(columns, rows)
        return
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console().print(drawn)

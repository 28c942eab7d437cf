"""The command `truing`: one module per concern, each a thin layer over the kernel.

    app.py        the commands, by name, and what becomes of errors
    brought.py    the commands that plugins bring
    options.py    options that several commands take
    running.py    run, resume, track
    replaying.py  replay
    reporting.py  report; summary.py is what it finds in the events, trace.py its timeline
    checking.py   check
    planning.py   plan
    catalogue.py  list, show, plugins, version
    schema.py     schema: what an editor needs to know of a recipe
    init.py       init NAME: a copy of a shipped recipe, or with --plugin the skeleton of a plugin, from template/
    output.py     how it looks: tables, JSON, problems

Exit status: 0 fine, 1 the run failed, 2 the user's input is wrong, 130 interrupted. Results go to stdout, all else to
stderr. Nothing here imports torch, and a command imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit status."""
    from truing.cli.app import run

    run(arguments)

"""`truing replay`: a run once more, exactly as it was, and whether it comes to the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from truing.cli import output
from truing.cli.options import Block, Json, Traceback
from truing.cli.running import Folder, Quiet, go, journal_of, mode_of, return_to
from truing.cli.together import follow


def replay(
    run: Folder,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the replay is kept; beside the run when not given.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    block: Block = None,
    traceback: Traceback = False,
) -> None:
    """Do a finished run once more and compare.

    Waves are sampled from the weights they were sampled from, as the journal has it, whatever the clock says. The
    replay is a run of its own, which no tracking server hears of. Exit status 1 says that the two departed.
    """
    from truing.conduct import versions
    from truing.errors import Problem, UserError
    from truing.journal import Journal
    from truing.plugins import discover
    from truing.recipe import load
    from truing.replay import departures
    from truing.script import Script

    journal = journal_of(run)
    kept = journal.read()
    if kept.status != "finished":
        what = f"this run is {kept.status}, and only a finished one can be replayed"
        raise UserError(Problem(str(run), what, f"truing resume {run}"))
    root = (folder or journal.folder.parent).resolve()
    return_to(journal)
    plugins = discover(block or ())
    recipe = replace(load(journal.folder / "resolved.toml", plugins), observers=[])
    now = versions(plugins)
    follow(recipe, str(run), "replay")
    for package in sorted(name for name in kept.versions.keys() & now.keys() if kept.versions[name] != now[name]):
        output.say(f"{package} was {kept.versions[package]} and is {now[package]}: numbers may differ")
    if lines := journal.spoiled():
        output.say(f"events.jsonl: these lines were torn or are not what was written, and are left out: {lines}")
    again = Journal.create(root, recipe, now)
    script = Script(event for _, event in journal.events())
    go(recipe, again, plugins, mode_of(json, quiet, recipe), resumed=False, traceback=traceback, script=script)
    found = departures(journal, again)
    for departure in found:
        output.say(departure)
    if found:
        raise typer.Exit(1)
    print("it came to the same, bit for bit", file=sys.stderr if json or quiet else sys.stdout)

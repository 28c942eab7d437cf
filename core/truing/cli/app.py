"""The commands, by name, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from truing.cli import catalogue, checking, init, output, planning, replaying, reporting, running, schema
from truing.cli.brought import Commands
from truing.errors import RunFailed, UserError

app = typer.Typer(
    name="truing",
    cls=Commands,
    help="Preference learning and RLHF from typed parts: one TOML file, checked before anything loads.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

for command, name in (
    (running.run, "run"),
    (running.resume, "resume"),
    (replaying.replay, "replay"),
    (running.track, "track"),
    (reporting.report, "report"),
    (checking.check, "check"),
    (planning.plan, "plan"),
    (init.init, "init"),
    (catalogue.list_components, "list"),
    (catalogue.show, "show"),
    (catalogue.plugins, "plugins"),
    (schema.schema, "schema"),
    (catalogue.version, "version"),
):
    app.command(name)(command)


def _version(asked: bool) -> None:
    if asked:
        catalogue.version()
        raise typer.Exit


@app.callback()
def truing(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Leaves with SystemExit: 0 fine, 1 failed, 2 wrong input, 130 interrupted."""
    try:
        app(args=arguments, prog_name="truing")
    except UserError as wrong:
        output.say_problems(wrong.problems)
        sys.exit(2)
    except RunFailed as failed:
        output.say(f"the run failed: {failed}")
        sys.exit(1)
    except Exception as unexpected:  # whatever a plugin or a mistake of ours raises ends in a sentence, not in a page
        output.say_unexpected(unexpected, shown=bool(os.environ.get("TRUING_TRACEBACK")))
        sys.exit(1)

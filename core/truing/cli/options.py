"""Options that several commands take, written once."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one value of the recipe; may be given many times."),
]
Block = Annotated[
    list[str] | None,
    typer.Option(
        "--block", metavar="PLUGIN", help="Leave a plugin out; may be given many times. TRUING_BLOCK does the same."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on stdout, and nothing else there.")]
Traceback = Annotated[
    bool, typer.Option("--traceback", envvar="TRUING_TRACEBACK", help="Show where an unexpected error came from.")
]

"""`truing check`: is a recipe right, without building any of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli import output
from truing.cli.options import Block, Json, Overrides

if TYPE_CHECKING:
    from truing.errors import Problem
    from truing.recipe import Phase, Recipe


def check(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="TOML files.", show_default=False)],
    overrides: Overrides = None,
    json: Json = False,
    block: Block = None,
) -> None:
    """Say all that is wrong with recipes.

    They are read, typed and fitted together; no model and no data are loaded.
    """
    from truing.errors import UserError
    from truing.plugins import discover
    from truing.recipe import load

    plugins = discover(block or ())
    problems: list[Problem] = []
    told: list[dict[str, Any]] = []
    for path in recipes:
        try:
            recipe = load(path, plugins, overrides or ())
        except UserError as error:
            problems.extend(error.problems)
            told.append({"recipe": str(path), "fine": False, "problems": error.problems})
            continue
        told.append(
            {"recipe": str(path), "fine": True, "digest": recipe.digest(), "phases": [_facts(p) for p in recipe.phases]}
        )
        if not json:
            _print(path, recipe)
    if json:
        output.json(told)
    else:
        output.say_problems(problems)
    if problems:
        raise typer.Exit(2)


def _print(path: Path, recipe: Recipe) -> None:
    print(f"{path}: fine")
    for phase in recipe.phases:
        facts = _facts(phase)
        apart = ("holdout", "look", "optimizer", *(("model",) if phase.makes_data else ()))
        way = " -> ".join(use for table, use in facts["uses"].items() if table not in apart)
        end = " -> data" if phase.makes_data else f", {facts['length']}"
        print(f"  {phase.name}{': ' if phase.name else ''}{way}{end}, {facts['batch']} groups per step")


def _facts(phase: Phase) -> Mapping[str, Any]:
    loop = phase.loop
    epochs = loop.epochs or 1
    length = f"{loop.steps} steps" if loop.steps else f"{epochs} epoch{'s' if epochs > 1 else ''}"
    uses = {table: spec.name for table, spec in phase.parts()}
    return {
        "name": phase.name,
        "uses": uses,
        "length": length,
        "steps": loop.steps,
        "epochs": loop.epochs,
        "batch": loop.batch,
    }

"""`truing check`: is a recipe right, without building any of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli import output
from truing.cli.options import Block, Json, Overrides
from truing.errors import shown

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
        facts = {"digest": recipe.digest(), "phases": [_facts(p) for p in recipe.phases], "reach": list(_reach(recipe))}
        told.append({"recipe": str(path), "fine": True, **facts})
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
    for what in _reach(recipe):
        print(f"  {shown(what)}")


def _reach(recipe: Recipe) -> Iterator[str]:
    """What a recipe does outside of this process and its files, for whoever did not write it: whom it asks, with which
    keys, and whose code it runs."""
    from truing.stage import within

    parts = [*recipe.observers, *(spec for phase in recipe.phases for _, spec in phase.parts())]
    found: dict[str, None] = {}
    for spec in (inner for part in parts for _, inner in within(part)):
        for url in [getattr(spec, "url", ""), *getattr(spec, "urls", [])]:
            key = getattr(spec, "key_env", "")
            if url:
                found[f"asks {url}" + (f", with the key in {key}" if key else "")] = None
        if uri := getattr(spec, "tracking_uri", ""):
            found[f"sends what happens to {uri}"] = None
        if getattr(spec, "trust_remote_code", False):
            found[f"runs code that comes with {getattr(spec, 'path', '')}"] = None
    yield from found


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

"""`truing schema`: what an editor needs to know of a recipe, as JSON Schema in the plain keywords of draft 7.

Every table that names a component is a choice between the installed ones, told apart by `use`, each with its options,
their bounds, defaults and meanings. It accepts every valid recipe and refuses unknown tables and options; whether the
parts fit together is for `truing check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from truing.cli.options import Block

if TYPE_CHECKING:
    from truing.registry import Registry
    from truing.stage import AnySpec

_NULL = {"type": "null"}


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to a file.", show_default=False)
    ] = None,
    block: Block = None,
) -> None:
    """Write the JSON Schema of a recipe. `#:schema FILE` as first line of a recipe makes editors use it."""
    import msgspec

    from truing.plugins import discover

    text = msgspec.json.format(msgspec.json.encode(recipe_schema(discover(block or ()).registry)), indent=2).decode()
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """The schema of a recipe that uses the components of this registry."""
    import msgspec

    from truing.recipe import TABLES, Loop
    from truing.stage import KINDS

    specs = [spec for kind in KINDS for spec in registry.shelf(kind).values()]
    told, components = msgspec.json.schema_components([Loop, *specs], ref_template="#/definitions/{name}")
    definitions = {name: _without_null(body) for name, body in components.items()}
    for reference, spec in zip(told[1:], specs, strict=True):
        _name_the_component(definitions[reference["$ref"].rpartition("/")[2]], spec)
    choices = {
        kind: {"oneOf": [reference for reference, spec in zip(told[1:], specs, strict=True) if spec.kind == kind]}
        for kind in KINDS
        if registry.shelf(kind)
    }
    # A component inside a component is told as its kind; it is a choice between them, too, if there are any.
    none: dict[str, Any] = {"not": {}}
    definitions |= {
        spec.__name__: choices.get(kind, none) for kind, spec in KINDS.items() if spec.__name__ in definitions
    }
    tables = {table: choices[spec.kind] for table, spec in TABLES.items() if spec.kind in choices}
    tables["loop"] = told[0]
    head = {
        "name": {
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]+$",
            "description": "what the run is called; the file's name if not given",
        },
        "seed": {"type": "integer", "default": 0, "description": "what all randomness of the run depends on"},
    }
    watched = {"observer": {"type": "array", "items": choices["observer"]}} if "observer" in choices else {}
    phase = {"type": "object", "properties": tables, "additionalProperties": False}
    phases = {
        "type": "object",
        "patternProperties": {"^[a-z][a-z0-9_-]*$": phase},
        "additionalProperties": False,
        "minProperties": 1,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "a recipe of truing",
        "type": "object",
        "properties": {**head, **watched, "phase": phases, **tables},
        "additionalProperties": False,
        "definitions": definitions,
    }


def _name_the_component(body: dict[str, Any], spec: type[AnySpec]) -> None:
    """Add `use`, by which an editor tells the choices apart."""
    use = {"enum": [spec.name], "description": f"the {spec.kind} {spec.name}"}
    body["title"] = f"{spec.kind} {spec.name}"
    body["properties"] = {"use": use, **body["properties"]}
    body["required"] = ["use", *body["required"]]


def _without_null(schema: Any) -> Any:
    """The same schema for TOML, which has no null: an option that may be none is simply not written."""
    if isinstance(schema, list):
        return [_without_null(entry) for entry in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _without_null(entry) for key, entry in cast("dict[str, Any]", schema).items()}
    if "default" in kept and kept["default"] is None:
        del kept["default"]
    choices = [choice for choice in kept.get("anyOf", []) if choice != _NULL]
    if "anyOf" in kept:
        kept["anyOf"] = choices
    return (
        {**{key: entry for key, entry in kept.items() if key != "anyOf"}, **choices[0]} if len(choices) == 1 else kept
    )

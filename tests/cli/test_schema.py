"""`truing schema`: it knows every component, and nothing else."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from truing.recipe import TABLES

RECIPES = Path(__file__).parents[2] / "recipes"
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "minLength": lambda value, bound: len(value) >= bound,
    "maxLength": lambda value, bound: len(value) <= bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "minProperties": lambda value, bound: len(value) >= bound,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
    "enum": lambda value, choices: value in choices,
}
SILENT = {"title", "description", "default", "definitions", "$schema"}
LOGICAL = {
    "$ref",
    "oneOf",
    "anyOf",
    "type",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "items",
}


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether a JSON Schema accepts a value: the few keywords `truing schema` uses, as draft 7 has them."""
    assert not schema.keys() - BOUNDS.keys() - SILENT - LOGICAL, f"a keyword not known here: {schema}"
    if "$ref" in schema:
        return accepts(root["definitions"][schema["$ref"].removeprefix("#/definitions/")], value, root)
    if "oneOf" in schema:
        return sum(accepts(choice, value, root) for choice in schema["oneOf"]) == 1
    if "anyOf" in schema:
        return any(accepts(choice, value, root) for choice in schema["anyOf"])
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        return False
    if not all(BOUNDS[word](value, bound) for word, bound in schema.items() if word in BOUNDS):
        return False
    if isinstance(value, list):
        return all(accepts(schema.get("items", {}), entry, root) for entry in value)
    return not isinstance(value, dict) or _accepts_table(schema, value, root)


def _accepts_table(schema: dict[str, Any], value: dict[str, Any], root: dict[str, Any]) -> bool:
    if set(schema.get("required", ())) - value.keys():
        return False
    for key, entry in value.items():
        patterns = [inner for pattern, inner in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        known = [schema["properties"][key]] if key in schema.get("properties", {}) else patterns
        rest = schema.get("additionalProperties", True)
        for inner in known or ([] if rest is True else [rest]):
            if inner is False or not accepts(inner, entry, root):
                return False
    return True


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_that_ships_is_accepted(truing, path):
    schema = truing("schema").json
    assert accepts(schema, tomllib.loads(path.read_text()), schema)


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        ("loss.scale = 2", True),
        ("loop.steps = 3", True),
        ("seed = 1", True),
        ("observer = [{use = 'toy', fail = 'open'}]", True),
        ("loss.scael = 2", False),
        ("loss.scale = 0", False),
        ("loss.scale = 'high'", False),
        ("loop.setps = 3", False),
        ("sed = 1", False),
        ("observer = [{use = 'toy', fail = 'sometimes'}]", False),
        ("scorer.use = 'toy'", False),
        ("loss.use = 'toyy'", False),
    ],
)
def test_a_right_line_is_accepted_and_a_wrong_one_refused(truing, line, accepted):
    use = {"use": "toy"}
    recipe = {"source": use, "model": use, "optimizer": use, "loss": use}
    for table, value in tomllib.loads(line).items():
        recipe[table] = {**recipe.get(table, {}), **value} if isinstance(value, dict) else value
    schema = truing("schema").json
    assert accepts(schema, recipe, schema) == accepted
    phases = {"observer": recipe.pop("observer", []), "phase": {"one": recipe}}
    if not recipe.keys() & {"seed", "sed"}:
        assert accepts(schema, phases, schema) == accepted


def option_of(schema: dict[str, Any], table: str, use: str) -> dict[str, Any]:
    choices = [schema["definitions"][ref["$ref"].rpartition("/")[2]] for ref in schema["properties"][table]["oneOf"]]
    (found,) = [choice for choice in choices if choice["properties"]["use"]["enum"] == [use]]
    return found


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from parts(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from parts(value)


def test_the_options_of_a_component_have_bounds_defaults_and_meanings(truing):
    loss = option_of(truing("schema").json, "loss", "toy")
    assert loss["required"] == ["use"]
    assert loss["additionalProperties"] is False
    assert loss["properties"]["scale"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 1.0,
        "description": "what the sum is multiplied by",
    }


def test_every_component_on_the_shelves_is_a_choice(truing):
    schema = truing("schema").json
    for row in truing("list", "--json").json:
        for table in (table for table, kind in TABLES.items() if kind.kind == row["kind"]):
            assert option_of(schema, table, row["name"])


def test_a_phase_may_have_what_a_recipe_of_one_phase_has(truing):
    properties = truing("schema").json["properties"]
    (phase,) = properties["phase"]["patternProperties"].values()
    assert set(properties) - set(phase["properties"]) == {"name", "seed", "observer", "phase"}
    assert phase["additionalProperties"] is False


def test_a_table_that_nothing_installed_could_fill_is_refused(truing):
    truing("schema", "--block", "environment", "--block", "faults")
    schema = truing("schema", "--block", "toy-plugin").json
    assert schema["additionalProperties"] is False
    assert ("generator" in schema["properties"]) == bool(truing("list", "generator", "--json").json)


def test_toml_has_no_null_and_neither_has_the_schema(truing):
    for part in parts(truing("schema").json):
        assert part.get("type") != "null"
        assert "default" not in part or part["default"] is not None


def test_every_reference_leads_somewhere(truing):
    schema = truing("schema").json
    for part in parts(schema):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/definitions/") in schema["definitions"]


def test_the_schema_can_go_to_a_file(truing, here):
    said = truing("schema", "--output", "recipe.schema.json")
    assert said.out == ""
    assert json.loads((here / "recipe.schema.json").read_text())["title"] == "a recipe of truing"

"""`truing schema`: it knows every component, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from truing.recipe import TABLES


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

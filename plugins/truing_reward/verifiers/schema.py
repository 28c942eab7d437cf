"""The judge of JSON by a schema, by jsonschema. A schema may hold patterns that take ages: hence a worker."""

from __future__ import annotations

import json
from typing import Any

from truing_reward.verifiers import reading
from truing_reward.verifiers.verdict import Judge, Verdict


def prepare(options: dict[str, Any]) -> Judge:
    """The judge of a schema, and of what JSON is worth that does not fit it. Raises ValueError for no schema."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = options["schema"]
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from None
    # An empty registry: a schema's references are looked up in the schema, and nothing is fetched.
    fits = kind(schema, registry=Registry()).is_valid

    def judge(text: str, truth: object) -> Verdict:
        try:
            value = json.loads(reading.fenced(text), parse_constant=_no_number)
        except (ValueError, RecursionError):
            return Verdict(0.0, "unread")
        return Verdict(1.0 if fits(value) else options["valid"])

    return judge


def _no_number(name: str) -> float:
    """NaN and Infinity are Python's own idea of JSON."""
    raise ValueError(f"{name} is no JSON")

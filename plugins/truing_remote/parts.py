"""A component as it travels to another process, the names of its classes and its options; and what went wrong there."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast, get_type_hints

import msgspec

from truing.errors import Problem, RunFailed, TruingError, UserError
from truing.run import Stopped
from truing.stage import AnySpec, Spec, component_of


class Failed(msgspec.Struct, tag=True):
    """It was not done. kind: of the error. problems: where, what and mend of each."""

    number: int
    kind: str
    text: str = ""
    problems: list[tuple[str, str, str]] = []


def packed(spec: AnySpec) -> dict[str, Any]:
    """A component as it travels: under "" its class, which no option is called, and its options."""
    kind = type(spec)
    options = {option.name: _packed(getattr(spec, option.name)) for option in msgspec.structs.fields(kind)}
    return {"": f"{kind.__module__}:{kind.__qualname__}", **options}


def unpacked(table: Mapping[str, Any]) -> AnySpec:
    """The component that travelled."""
    module, _, name = table[""].partition(":")
    kind = getattr(importlib.import_module(module), name)
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: _unpacked(hints[key], value) for key, value in table.items() if key})


def _packed(value: Any) -> Any:
    if isinstance(value, Spec):
        return packed(cast(AnySpec, value))
    if isinstance(value, list):
        return [_packed(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _packed(each) for key, each in cast("dict[str, Any]", value).items()}
    return msgspec.to_builtins(value)


def _unpacked(hint: Any, value: Any) -> Any:
    if component_of(hint) is None or value is None:
        return msgspec.convert(value, hint)
    if isinstance(value, list):
        return [unpacked(each) for each in cast("list[Any]", value)]
    return unpacked(value) if "" in value else {key: unpacked(each) for key, each in value.items()}


def failed(number: int, error: BaseException) -> Failed:
    """An error as it travels."""
    if isinstance(error, UserError):
        return Failed(number, "user", problems=[(each.where, each.what, each.mend) for each in error.problems])
    if isinstance(error, Stopped):
        return Failed(number, "stopped")
    return Failed(number, "run", str(error) if isinstance(error, TruingError) else f"{type(error).__name__}: {error}")


def error_of(failed: Failed) -> Exception:
    """The error that travelled."""
    if failed.kind == "user":
        return UserError(Problem(*each) for each in failed.problems)
    return Stopped() if failed.kind == "stopped" else RunFailed(failed.text)

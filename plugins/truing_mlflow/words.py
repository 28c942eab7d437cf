"""Names and values as MLflow takes them, and nothing secret among them.

MLflow takes letters, digits, `_ - . / :` and space in names; 250 characters of a name, 6000 of a parameter, 8000 of a
tag.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from truing.events import Alarm, RunStarted

NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
HIDDEN = "(hidden)"

_OUTSIDE = re.compile(r"[^\w.\-/: ]")
_USERINFO = re.compile(r"(?<=://)[^/@\s\"']+@")
_SECRET = r"(?:(?:\w*_)?(?:token|password|secret|api_key|access_key))"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_SECRET_LINE = re.compile(rf"""^(\s*"?{_SECRET}"?\s*=\s*)(".*"|'.*')""", re.IGNORECASE | re.MULTILINE)


def name(text: str) -> str:
    """A metric's or parameter's name without what MLflow refuses."""
    path = posixpath.normpath(_OUTSIDE.sub("_", text)[:NAME_LENGTH]).strip("/").replace("..", "_")
    return "_" if path in ("", ".") else path


def cut(text: str, length: int) -> str:
    """A text of at most so many characters; one that was longer says so at its end."""
    mark = f" ... (cut, {len(text)} characters)"
    return text if len(text) <= length else text[: length - len(mark)] + mark


def redact(text: str) -> str:
    """A text without the users and passwords of its addresses, and without TOML values that are named like a secret."""
    return _SECRET_LINE.sub(rf'\1"{HIDDEN}"', _USERINFO.sub("", text))


def params(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as parameters: names that MLflow takes, values as plain text or JSON."""
    return {name(key): cut(_value(key, value), PARAM_LENGTH) for key, value in options.items()}


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as the pages of MLflow show it; the turns of a conversation are set apart by an empty line."""

    def plain(cell: Any) -> Any:
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in cell) if isinstance(cell, list) else cell

    return msgspec.json.encode({"columns": columns, "data": [[plain(cell) for cell in row] for row in rows]}).decode()


def note(started: RunStarted, single: bool, alarms: Sequence[Alarm] = ()) -> str:
    """The description of a run in markdown: what it is, its alarms, where it is kept, how to go on with it."""
    raised = "".join(
        f"- **{alarm.name}**{f' in {alarm.phase}' if alarm.phase else ''}, step {alarm.step}: {alarm.text}\n"
        for alarm in alarms
    )
    warned = f"Alarms:\n\n{raised}\n" if raised else ""
    phases = (
        ""
        if single
        else f"\n\nPhases, in this order: {', '.join(f'`{phase}`' for phase in started.phases)}. Each is a nested run."
    )
    commit = f" at commit `{started.commit[:12]}`" if started.commit else ""
    return (
        f"**{started.name}**, recipe `{started.digest}`{commit}.{phases}\n\n{warned}"
        f"Everything of it is kept in `{started.folder}`: the recipe, every event, checkpoints and models.\n\n"
        f"- go on with it: `truing resume {started.folder}`\n"
        f"- send what is missing here: `truing track {started.folder}`\n\n"
        "`resolved.toml`, among the artifacts, is the recipe with every default written out."
    )


def _value(key: str, value: Any) -> str:
    if isinstance(value, str):
        return HIDDEN if value and _SECRET_NAME.fullmatch(key.rpartition(".")[2]) else redact(value)
    return redact(msgspec.json.encode(value).decode())

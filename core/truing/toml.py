"""TOML text to values, with the line of every key.

`tomllib` gives values without positions, and a mistake without a line costs its reader minutes; so the text is walked
once more, only to note on which line each key path begins.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from truing.errors import Problem, UserError

Path = tuple[str | int, ...]

_KEY = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.?)""")
_TOKEN = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*|[\[\]{}\n]""", re.DOTALL
)
_LINE = re.compile(r"at line (\d+)")


@dataclass
class Document:
    """A parsed TOML text: its values, and the line (from 1) on which each key path begins."""

    name: str
    values: dict[str, Any]
    lines: dict[Path, int] = field(default_factory=dict[Path, int])
    overridden: set[Path] = field(default_factory=set[Path])

    def where(self, *path: str | int) -> str:
        """`file:line` of a key, or of the nearest table around it; `--set a.b` for a value from the command line."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return f"--set {'.'.join(map(str, path[:end]))}"
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return f"{self.name}:1"

    def override(self, assignment: str) -> None:
        """Set one value from `table.key=value`; the value is TOML, or else plain text. Raises UserError."""
        target, equals, text = assignment.partition("=")
        path = tuple(target.strip().split("."))
        if not equals or not all(path):
            mend = "write it as --set table.key=value, for example --set loss.beta=0.1"
            raise UserError(Problem(f"--set {assignment}", "not of the form table.key=value", mend))
        table: dict[str, Any] = self.values
        for key in path[:-1]:
            inner: Any = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UserError(Problem(f"--set {assignment}", f'"{key}" is a value, not a table'))
            table = cast("dict[str, Any]", inner)
        table[path[-1]] = _value(text.strip())
        self.overridden.add(path)


def parse(text: str, name: str) -> Document:
    """Read TOML. Raises UserError with the line of a syntax error."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        line = int(found.group(1)) if found else text.count("\n") + 1
        what = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise UserError(Problem(f"{name}:{line}", f"not valid TOML: {what[:1].lower()}{what[1:]}")) from None
    except (ValueError, RecursionError):
        raise UserError(Problem(name, "an integer of thousands of digits, or brackets nested as deep")) from None
    return Document(name, values, _lines(text))


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _lines(text: str) -> dict[Path, int]:
    """Walk statement by statement: a header or `key = value`, a value ending where its brackets and strings do."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    position, line = 0, 1
    while position < len(text):
        end = _statement_end(text, position)
        statement = text[position:end]
        bare = statement.lstrip()
        start = line + statement[: len(statement) - len(bare)].count("\n")
        if bare.startswith("["):
            table = _header(bare, counts)
            lines.update({path: start for path in _beginnings(table) if path not in lines} | {table: start})
        elif bare and not bare.startswith("#"):
            for path in _beginnings(_keys(bare)):
                lines.setdefault((*table, *path), start)
        line += statement.count("\n")
        position = end
    return lines


def _statement_end(text: str, start: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(text, start):
        kind = token.group()
        depth += (kind in "[{") - (kind in "]}")
        if kind == "\n" and depth == 0:
            return token.end()
    return len(text)


def _header(text: str, counts: dict[Path, int]) -> Path:
    """The table that `[a.b]` or `[[a.b]]` opens; inside an array of tables it belongs to the last one."""
    if not text.startswith("[["):
        return _inside_arrays(_keys(text[1:]), counts)
    *outer, last = _keys(text[2:])
    array = (*_inside_arrays(outer, counts), last)
    counts[array] = counts.get(array, -1) + 1
    return (*array, counts[array])


def _keys(text: str) -> list[str]:
    keys: list[str] = []
    position = 0
    while found := _KEY.match(text, position):
        escaped, literal, bare = found.groups()[:3]
        keys.append(tomllib.loads(f'key = "{escaped}"')["key"] if escaped else literal or bare or "")
        position = found.end()
        if not found.group(4):
            break
    return keys


def _inside_arrays(key: Sequence[str], counts: dict[Path, int]) -> Path:
    path: Path = ()
    for part in key:
        path = (*path, part)
        if path in counts:
            path = (*path, counts[path])
    return path


def _beginnings(path: Sequence[str | int]) -> list[Path]:
    return [tuple(path[:end]) for end in range(1, len(path) + 1)]

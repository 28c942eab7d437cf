"""Scored data as a phase writes it, a line of JSON for each prompt, and what is read of it.

Every row knows its place, `file:line`, and all that is wrong is told at once. Rows are put in the order of their ids,
so that nothing that is computed of them depends on the order of a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing.journal import GROUPS

T = TypeVar("T")

_TOLD = 20
_FORM = "a row has id, prompt, completions and, along these, scores: see `truing evaluate -h`"


class BadValue(Exception):
    """What is wrong with a row, and how to mend it."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


class Row(NamedTuple):
    """A prompt and its completions. texts: the words of each. values: everything the line has."""

    where: str
    id: str
    texts: Sequence[str]
    values: Mapping[str, Any]


class Scored(NamedTuple):
    """A file of rows, in the order of their ids."""

    origin: str
    rows: Sequence[Row]

    def has(self, *names: str) -> bool:
        """Whether some row has all of these, of `whole.part` the whole; then every row must, or it is told."""
        return any(all(name.partition(".")[0] in row.values for name in names) for row in self.rows)

    def names(self) -> list[str]:
        """What any row has."""
        return sorted({name for row in self.rows for name in row.values})

    def each(self, read: Callable[[Row], T]) -> list[T]:
        """What `read` gives of each row. Raises UserError with every BadValue that it raised."""
        found: list[T] = []
        bad: list[Problem] = []
        for row in self.rows:
            try:
                found.append(read(row))
            except BadValue as wrong:
                bad.append(Problem(row.where, wrong.what, wrong.mend))
        _refuse(bad)
        return found


def read(path: Path) -> Scored:
    """The rows of a file, or of the data a phase made. Raises UserError naming every line that is no row."""
    file = located(path)
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot read {file}: {error.strerror}")) from None
    rows: list[Row] = []
    bad: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_row(f"{file}:{number}", line))
            except BadValue as wrong:
                bad.append(Problem(f"{file}:{number}", wrong.what, wrong.mend))
    _refuse(bad)
    if not rows:
        raise UserError(Problem(str(file), "there are no rows in this file"))
    return Scored(str(path), sorted(rows, key=lambda row: row.id))


def located(path: Path) -> Path:
    """The file that is meant: itself, or what the phase of a run's folder wrote. Raises UserError."""
    if not path.is_dir():
        return path
    if (own := path / "data" / GROUPS).is_file():
        return own
    found = sorted(path.glob(f"*/data/{GROUPS}"))
    if len(found) == 1:
        return found[0]
    if found:
        phases = ", ".join(str(file.parents[1]) for file in found)
        raise UserError(Problem(str(path), f"{len(found)} phases of this run made data", f"name one: {phases}"))
    mend = "a phase without [optimizer] and [loss] makes data"
    raise UserError(Problem(str(path), f"no phase in this folder has written data/{GROUPS}", mend))


def numbers(row: Row, name: str, along: Sequence[Any] | None = None, what: str = "completions") -> list[float]:
    """The numbers of a field, as many as there are completions, or things in `along`. Raises BadValue."""
    value = field(row, name)
    if not isinstance(value, list):
        raise BadValue(f'"{name}" is {_kind(value)}, not a list of numbers')
    count = len(row.texts if along is None else along)
    if len(value) != count:
        raise BadValue(f'"{name}" has {len(value)} entries for {count} {what}')
    return [number(entry, f'"{name}", entry {at}') for at, entry in enumerate(value, 1)]


def number(value: Any, place: str) -> float:
    """A finite number. Raises BadValue."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise BadValue(f"{place} is {_kind(value)}, not a finite number")


def field(row: Row, name: str) -> Any:
    """A field that must be there; `score_parts.right` is what every entry of `score_parts` has under `right`. Raises
    BadValue."""
    if name in row.values:
        return row.values[name]
    whole, _, part = name.partition(".")
    entries = row.values.get(whole)
    if not isinstance(entries, list):
        raise BadValue(f'no "{name}" in this row', did_you_mean(name, row.values))
    for at, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise BadValue(f'"{whole}", entry {at} is {_kind(entry)}, which has no parts')
        if part not in entry:
            raise BadValue(f'"{whole}", entry {at} has no "{part}"', did_you_mean(part, entry))
    return [entry[part] for entry in entries]


def told(row: Row, key: str) -> str:
    """What a row says under a key, in `metadata` or beside it, as the name of a category. Raises BadValue."""
    inside = row.values.get("metadata")
    values = {**row.values, **inside} if isinstance(inside, dict) else row.values
    if key not in values:
        raise BadValue(f'nothing is called "{key}" in this row or its metadata', did_you_mean(key, values))
    value = values[key]
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise BadValue(f'"{key}" is {_kind(value)}, not the name of a category')
    return str(value)


def words(text: Any) -> str | None:
    """A text, or what the turns of a conversation say; None if it is neither."""
    if isinstance(text, str):
        return text
    if isinstance(text, list) and all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in text):
        return "\n".join(turn["content"] for turn in text)
    return None


def numbered(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Rows with a name each of its own: an id that comes again is counted."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        yield (row.id if seen[row.id] == 1 else f"{row.id}#{seen[row.id]}"), row


def _row(where: str, line: bytes) -> Row:
    try:
        values = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadValue(f"not JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
    if not isinstance(values, dict):
        raise BadValue(f"this is {_kind(values)}, not an object", _FORM)
    if lacking := [key for key in ("id", "prompt", "completions") if key not in values]:
        raise BadValue(f'no "{lacking[0]}" in this row', _FORM)
    completions = values["completions"]
    if not isinstance(completions, list) or not completions:
        raise BadValue('"completions" is not a list with something in it', _FORM)
    texts = [words(text) for text in completions]
    if None in texts:
        raise BadValue(
            f"completion {texts.index(None) + 1} is {_kind(completions[texts.index(None)])}, not text", _FORM
        )
    return Row(where, str(values["id"]), [text for text in texts if text is not None], values)


def _refuse(bad: Sequence[Problem]) -> None:
    if bad:
        more = len(bad) - _TOLD
        rest = [Problem(bad[-1].where.rpartition(":")[0], f"and {more:,} rows more with problems")] if more > 0 else []
        raise UserError([*bad[:_TOLD], *rest])


def _kind(value: Any) -> str:
    """What a value is, as a reader of the file sees it."""
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {value}"
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return kinds[type(value)]

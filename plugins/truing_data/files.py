"""Rows from files: JSON lines and Parquet. Every row knows its place, `file:line` or `file[row]`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from truing.errors import Problem, UserError
from truing.run import Run
from truing.whole import sum_of
from truing_data.held import Held, Loaded, Row, library, mapped
from truing_data.on_disk import paths
from truing_data.plugin import Jsonl, Parquet
from truing_data.rows import BadRow

_BOM = b"\xef\xbb\xbf"


def jsonl(spec: Jsonl, run: Run) -> Held:
    """The source of a `jsonl` spec."""
    return _source(spec, run, lines)


def parquet(spec: Parquet, run: Run) -> Held:
    """The source of a `parquet` spec."""
    return _source(spec, run, records)


def lines(path: Path, name: str) -> Iterator[Row]:
    """The rows of a file of JSON lines, blank lines left out. Raises UserError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(_BOM) if number == 1 else line
                if line.strip():
                    yield Row(f"{name}:{number}", f"{path}:{number}", parsed(line))
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot read this file: {error.strerror}")) from None


def parsed(line: bytes) -> dict[str, Any] | BadRow:
    """The object of one line, or what is wrong with it."""
    try:
        line.decode()
        value = msgspec.json.decode(line)
    except UnicodeDecodeError:
        return BadRow("not UTF-8 text", "save the file with that encoding")
    except msgspec.DecodeError as error:
        return BadRow(f"not JSON: {str(error).removeprefix('JSON is malformed: ')}")
    return value if isinstance(value, dict) else BadRow("not a JSON object", "one object per line")


def records(path: Path, name: str) -> Iterator[Row]:
    """The rows of a Parquet file, counted from 0. Raises UserError when the file cannot be read."""
    arrow = library("pyarrow.parquet", "data", str(path))
    number = 0
    try:
        with arrow.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    yield Row(f"{name}[{number}]", f"{path}[{number}]", value)
                    number += 1
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(path), f"cannot read this file as Parquet: {_first_line(error)}")) from None


def _source(spec: Jsonl | Parquet, run: Run, read: Callable[[Path, str], Iterator[Row]]) -> Held:
    origin = spec.path if isinstance(spec.path, str) else ", ".join(spec.path)

    def load() -> Loaded:
        found = paths(spec.path)
        if not found:
            raise UserError(Problem(origin, "no such file"))
        for path in found if spec.sha256 else ():
            _verify(path, spec.sha256)
        alike = len({path.name for path in found}) < len(found)
        rows = (row for path in found for row in read(path, str(path) if alike else path.name))
        return mapped(rows, spec, origin)

    first = spec.path if isinstance(spec.path, str) else spec.path[0]
    return Held(Path(first).name, origin, spec.shuffle, run, load, spec.bootstrap)


def _verify(path: Path, sums: Collection[str]) -> None:
    """Raises UserError for a file that is another than the recipe says."""
    try:
        found = sum_of(path)
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot read this file: {error.strerror}")) from None
    if found not in sums:
        what = f"this file is none of those in sha256: its sum is {found}"
        raise UserError(Problem(str(path), what, "fetch it again, or see that the recipe names the sum you want"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

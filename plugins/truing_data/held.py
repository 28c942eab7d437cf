"""Groups held in memory and handed out epoch by epoch: what every source of this plugin becomes once it is open.

Also the selection of rows (`where`, `mix`, `skip`, `limit`) and the report on those that are unusable.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import anyio.to_thread
import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing.fields import Batch, Group
from truing.run import Run
from truing.stage import DataInfo
from truing_data.forms import finished, gathered, resampled
from truing_data.mapping import MappedSource, Value
from truing_data.rows import BadRow, described
from truing_data.votes import compared, decided
from truing_tensor.groups import batch_of

_TOLD = 20


class Row(NamedTuple):
    """A row as it was read, or why it could not be. name: its id when no column has one. where: how to find it."""

    name: str
    where: str
    value: Mapping[str, Any] | BadRow


class Selection(Protocol):
    """The options that say which rows are used."""

    @property
    def where(self) -> Mapping[str, Value]: ...
    @property
    def mix(self) -> int | None: ...
    @property
    def skip(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def on_bad(self) -> str: ...


class Loaded(NamedTuple):
    """What reading gave. skipped: unusable rows and undecided pairs that were left out."""

    groups: list[Group]
    skipped: int = 0


class Held:
    """A source whose groups are in memory once it is open. `read` is called once, in a thread.

    bootstrap: the seed of a sample of them, drawn with replacement; None: the groups as they are.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        shuffle: bool,
        run: Run,
        read: Callable[[], Loaded],
        bootstrap: int | None = None,
    ) -> None:
        self._name = name
        self._origin = origin
        self._shuffle = shuffle
        self._run = run
        self._read = read
        self._bootstrap = bootstrap
        self._groups: list[Group] = []

    async def open(self) -> DataInfo:
        """Read everything. Raises UserError."""
        loaded = await anyio.to_thread.run_sync(self._read)
        groups = loaded.groups
        self._groups = groups if self._bootstrap is None else resampled(groups, self._bootstrap)
        digest = await anyio.to_thread.run_sync(digest_of, self._groups)
        return DataInfo(self._name, digest, len(groups), loaded.skipped, self._origin)

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        """One pass, `size` groups at a time; `epoch` and the run's seed alone decide the order."""
        order = list(range(len(self._groups)))
        if self._shuffle:
            random.Random(self._run.seed_for("source", epoch)).shuffle(order)
        for start in range(0, len(order), size):
            yield batch_of([self._groups[at] for at in order[start : start + size]])


def digest_of(groups: Iterable[Group]) -> str:
    """sha256 over all that is learned from: files and mapping in one, whatever the format they were read from."""
    total = hashlib.sha256()
    for group in groups:
        extra = {field.name: entries for field, entries in group.extra.items()}
        total.update(msgspec.json.encode([group.id, group.prompt, group.completions, group.pairs, extra]) + b"\n")
    return total.hexdigest()


def mapped(rows: Iterable[Row], options: MappedSource, origin: str) -> Loaded:
    """The groups of the rows that the options select. Raises UserError naming the unusable ones, or if none is left."""

    def make(row: Mapping[str, Any], name: str) -> list[Group]:
        groups = compared(row, name, options)
        return described(groups, row, options.metadata) if options.metadata else groups

    found = made(rows, make, options, origin)
    judged, tied = decided(found.groups, options, origin)
    groups = judged if options.together is None else gathered(judged, options.together)
    return Loaded(finished(groups, options, origin), found.skipped + tied)


def made(
    rows: Iterable[Row],
    make: Callable[[Mapping[str, Any], str], list[Group]],
    options: Selection,
    origin: str,
) -> Loaded:
    """What is made of each row that the options select, from its value and its name; `make` raises BadRow.

    Raises UserError naming the unusable rows, or if none is left.
    """
    chosen = selected(rows, options, origin)
    groups: list[Group] = []
    bad: list[Problem] = []
    seen: dict[str, str] = {}
    for row in chosen:
        try:
            if isinstance(row.value, BadRow):
                raise row.value
            found = make(row.value, row.name)
            for group in found:
                if group.id in seen:
                    raise BadRow(f'the id "{group.id}" was used before', f"first at {seen[group.id]}")
        except BadRow as error:
            bad.append(Problem(row.where, error.what, error.mend))
        else:
            groups.extend(found)
            seen.update(dict.fromkeys((group.id for group in found), row.where))
    if bad and (options.on_bad == "fail" or not groups):
        raise UserError(report(bad, len(chosen), origin))
    return Loaded(groups, len(bad))


def selected(rows: Iterable[Row], options: Selection, origin: str) -> Sequence[Row]:
    """The rows that `where`, `mix`, `skip` and `limit` leave. A row that could not be read counts as one.

    Nothing here depends on whether a row is usable, so two sources that differ in skip and limit alone cut the same
    sequence. Raises UserError when none is left.
    """
    end = None if options.limit is None else options.skip + options.limit
    found: list[Row] = []
    passed: list[Row] = []
    for row in rows:
        if isinstance(row.value, BadRow) or _matches(row.value, options.where):
            found.append(row)
        elif not found:
            passed.append(row)
        if len(found) == end and options.mix is None:
            break
    if not found:
        raise UserError(_unmatched(passed, options.where, origin) if passed else Problem(origin, "no rows in it"))
    if options.mix is not None:
        random.Random(options.mix).shuffle(found)
    if options.skip >= len(found):
        raise UserError(Problem(origin, f"skip = {options.skip} leaves none of {len(found):,} rows"))
    return found[options.skip : end]


def report(bad: Sequence[Problem], rows: int, origin: str) -> list[Problem]:
    """What to tell of unusable rows: one problem if all have the same, else the first ones and how many more."""
    if len(bad) == rows > 1 and len({problem.what for problem in bad}) == 1:
        return [Problem(origin, f"in each of {rows:,} rows: {bad[0].what}", bad[0].mend)]
    told = list(bad[:_TOLD])
    if more := len(bad) - len(told):
        what = f"and {more:,} more of {rows:,} rows are unusable"
        told.append(Problem(origin, what, 'on_bad = "skip" leaves such rows out and counts them'))
    return told


def library(name: str, extra: str, needed_by: str) -> Any:
    """A library that is not part of every installation. Raises UserError saying how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        mend = f'pip install "truing[{extra}]"'
        raise UserError(Problem(needed_by, f"the library {error.name} is not installed", mend)) from None


def _matches(row: Mapping[str, Any], where: Mapping[str, Value]) -> bool:
    return all(column in row and _equal(row[column], value) for column, value in where.items())


def _equal(found: Any, wanted: Value) -> bool:
    """Equal as written: 1 is not true."""
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _unmatched(rows: Sequence[Row], where: Mapping[str, Value], origin: str) -> list[Problem]:
    values = [row.value for row in rows if not isinstance(row.value, BadRow)]
    columns = {column for row in values for column in row}
    problems: list[Problem] = []
    for column, wanted in where.items():
        written = msgspec.json.encode(wanted).decode()
        found = [row[column] for row in values if column in row]
        if column not in columns:
            mend = did_you_mean(column, columns)
            problems.append(Problem(origin, f'where: no row has a column "{column}"', mend))
        elif not any(_equal(value, wanted) for value in found):
            mend = did_you_mean(str(wanted), {value for value in found if isinstance(value, str)})
            problems.append(Problem(origin, f"where: no row has {column} = {written}", mend))
    return problems or [Problem(origin, f"where: no row has all of {', '.join(where)} as asked")]

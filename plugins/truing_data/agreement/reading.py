"""A file of comparisons as it is looked at: every row with its place, its texts, its votes, and which side won.

More is let through here than a source would: a pair of equal answers cannot be trained on, and should be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, cast

import msgspec

from truing.errors import Problem, UserError
from truing_data.agreement.columns import Columns, meanings, settled
from truing_data.files import lines, records
from truing_data.held import selected
from truing_data.mapping import MappedSource, Value
from truing_data.on_disk import paths
from truing_data.rows import BadRow
from truing_data.votes import SIDES, Side, ballots, label_of, majority, shown_first, strength_of

_TOLD = 20
_TURNED = {"first": "second", "second": "first"}


class Comparison(NamedTuple):
    """Two answers to a prompt and what was said of them, or only what was said. A text is None where no column has one.

    opening: the first turn of a conversation. shown: 1 if `first` was shown first, -1 if `second` was, 0 if nobody
    knows. winner: None where nothing says it. item: what the votes are on where several rows are. categories: in the
    order of their columns.
    """

    where: str
    prompt: str | None = None
    opening: str | None = None
    first: str | None = None
    second: str | None = None
    votes: Sequence[tuple[str, str]] = ()
    winner: Side | None = None
    shown: int = 0
    strength: float | None = None
    item: str | None = None
    categories: Sequence[str] = ()


class Comparisons(NamedTuple):
    """A file that was read.

    votes: of every item, which is a row, or several where each is what one annotator said. places: where an item stands
    first. labels: of votes, in their order if `ordered`. told: what was guessed. unusable: rows.
    """

    origin: str
    rows: int
    found: Sequence[Comparison]
    votes: Sequence[Sequence[tuple[str, str]]]
    places: Sequence[str]
    columns: Columns
    labels: Sequence[str]
    ordered: bool
    told: Sequence[str]
    unusable: int


def read(path: str, given: Columns, where: Mapping[str, Value], skip_bad: bool, judged: bool = True) -> Comparisons:
    """All comparisons of a file of JSON lines or Parquet; not `judged`, the texts of any file.

    Raises UserError naming every row that is no use.
    """
    files = paths(path)
    if not files or files[0].is_dir():
        raise UserError(Problem(path, "no such file" if not files else "this is a folder", "name a file of rows"))
    reads = ((records if file.suffix == ".parquet" else lines)(file, file.name) for file in files)
    rows = selected((row for some in reads for row in some), MappedSource(where=dict(where)), path)
    sound = [row.value for row in rows if not isinstance(row.value, BadRow)]
    columns, told = settled(given, sound, path, judged)
    make: Callable[[str, Mapping[str, Any], Columns], Iterable[Comparison]] = _ranked if columns.completions else _pair
    found: list[Comparison] = []
    bad: list[Problem] = []
    for row in rows:
        try:
            if isinstance(row.value, BadRow):
                raise row.value
            found.extend(make(row.where, row.value, columns))
        except BadRow as error:
            bad.append(Problem(row.where, error.what, error.mend))
    found, labels, ordered = _judged(found, columns, told, path) if judged else (found, [], False)
    items = _items(found, columns, bad)
    if bad and (not skip_bad or not found):
        raise UserError(_cut(bad, len(rows), path))
    votes = [list(one.items()) for one in items.values()]
    return Comparisons(path, len(rows), found, votes, list(items), columns, labels, ordered, told, len(bad))


def said(value: Any) -> str | None:
    """The words of a cell: text, or the content of the last of some messages."""
    if isinstance(value, str):
        return value
    turns = _turns(value)
    return str(turns[-1].get("content")) if turns else None


def asked(row: Mapping[str, Any], columns: Columns) -> tuple[str | None, str | None]:
    """The prompt of a row as one text, and its first turn. Whole conversations bring their prompt along."""
    cells = [row.get(column) for column in columns.prompt]
    whole = row.get(columns.first) if columns.first else None
    if not cells:
        cells = [_turns(whole)[:-1]]
    turns = [turn for cell in cells for turn in _turns(cell)]
    contents = [str(turn.get("content")) for turn in turns] + [cell for cell in cells if isinstance(cell, str)]
    users = [str(turn.get("content")) for turn in turns if turn.get("role") == "user"]
    return ("\n".join(contents) or None), (users[0] if users else None)


def _turns(cell: Any) -> list[dict[str, Any]]:
    """The messages of a conversation, none of anything else."""
    entries = cast("list[Any]", cell) if isinstance(cell, list) else []
    return [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]


def _pair(where: str, row: Mapping[str, Any], columns: Columns) -> Iterable[Comparison]:
    prompt, opening = asked(row, columns)
    strength = strength_of(row, columns.strength) if columns.strength is not None else None
    answers: list[str | None] = []
    for side in (columns.first, columns.second) if columns.first and columns.second else ():
        answers.append(said(row.get(side)))
        if answers[-1] is None:
            raise BadRow(f'"{side}" is no text' if side in row else f'no column "{side}"')
    first, second = answers or (None, None)
    shown = 0
    if columns.order is not None:
        shown = shown_first(row.get(columns.order), columns.first or "", columns.second or "")
    yield Comparison(
        where,
        prompt,
        opening,
        first,
        second,
        _ballots(row, columns),
        _winner(strength) if strength is not None else "first" if columns.known else None,
        shown,
        strength,
        _name(row, columns.item) if columns.item else None,
        _categories(row, columns),
    )


def _ballots(row: Mapping[str, Any], columns: Columns) -> list[tuple[str, str]]:
    """The votes of a row; one, if a column says whose it is."""
    votes = ballots(row, columns.votes)
    if columns.annotator is None:
        return votes
    if len(votes) != 1 and not columns.known:
        raise BadRow(f"{len(votes)} votes, and one annotator", "without --annotator a row may hold several")
    return [(_name(row, columns.annotator), "first" if columns.known else votes[0][1])]


def _name(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f'"{column}" is {value!r}, not a name')
    return str(value)


def _ranked(where: str, row: Mapping[str, Any], columns: Columns) -> Iterable[Comparison]:
    """Every two completions of a ranking: the better one first, tied ones as a tie."""
    answers, order = row.get(columns.completions or ""), row.get(columns.rank or columns.score or "")
    if not isinstance(answers, list) or not isinstance(order, list) or len(answers) != len(order):
        raise BadRow(f'"{columns.completions}" is no list with as many places beside it')
    texts, places = [said(text) for text in cast("list[Any]", answers)], cast("list[Any]", order)
    if None in texts:
        raise BadRow(f'"{columns.completions}": completion {texts.index(None) + 1} is no text')
    for place in places:
        if isinstance(place, bool) or not isinstance(place, int | float):
            raise BadRow(f"a place is {place!r}, not a number")
    prompt, opening = asked(row, columns)
    for one, other in combinations(range(len(texts)), 2):
        ahead = (places[other] - places[one]) * (1 if columns.rank else -1)
        better, worse = (one, other) if ahead >= 0 else (other, one)
        winner: Side = "first" if ahead else "tie"
        yield Comparison(
            where, prompt, opening, texts[better], texts[worse], winner=winner, categories=_categories(row, columns)
        )


def _categories(row: Mapping[str, Any], columns: Columns) -> list[str]:
    cells = [row.get(column) for column in columns.category]
    return [
        label_of(cell) if isinstance(cell, str | int | float) else msgspec.json.encode(cell).decode() for cell in cells
    ]


def _winner(strength: float) -> Side:
    return "tie" if not strength else "first" if strength > 0 else "second"


def _judged(
    found: list[Comparison], columns: Columns, told: list[str], origin: str
) -> tuple[list[Comparison], Sequence[str], bool]:
    """Votes on two answers said in sides, and who wins by them; other labels in their order if they have one."""
    labels: dict[str, str] = {}
    for one in found:
        for _, label in one.votes:
            labels.setdefault(label, one.where)
    if not labels:
        return found, [], False
    if columns.first is None:
        return found, *_scale(list(labels), columns, origin)
    sides, guessed = meanings(labels, columns)
    told += guessed
    voted: list[Comparison] = []
    for one in found:
        votes = [(who, sides[label]) for who, label in one.votes]
        cast_for: list[Side] = [sides[label] for _, label in one.votes]
        winner = one.winner if columns.known or not votes else majority(cast_for)
        voted.append(one._replace(votes=votes, winner=winner))
    return voted, SIDES, True


def _items(found: Sequence[Comparison], columns: Columns, bad: list[Problem]) -> dict[str, dict[str, str]]:
    """The votes on every item, by annotator, under the place where the item stands first.

    Rows by different annotators are one item if they are on the same prompt and answers, in whichever order, or have
    the same `item`. Whoever votes on one twice is added to `bad`.
    """
    if columns.annotator is None:
        return {one.where: dict(one.votes) for one in found}
    leads: dict[Any, Comparison] = {}
    items: dict[str, dict[str, str]] = {}
    for one in found:
        lead = leads.setdefault(one.item or (one.prompt, frozenset((one.first, one.second))), one)
        votes = items.setdefault(lead.where, {})
        for who, label in one.votes:
            if who in votes:
                bad.append(Problem(one.where, f'annotator "{who}" votes on this twice', f"first at {lead.where}"))
            else:
                votes[who] = label if one.first == lead.first else _TURNED.get(label, label)
    return items


def _scale(labels: list[str], columns: Columns, origin: str) -> tuple[Sequence[str], bool]:
    """Labels in the order of `scale`, or of the numbers they are; otherwise they have none."""
    if columns.scale:
        if absent := sorted(set(labels) - set(columns.scale)):
            mend = f'--scale "{",".join([*columns.scale, *absent])}", from one end to the other'
            raise UserError(Problem(origin, f"labels that are not on the scale: {', '.join(absent)}", mend))
        return columns.scale, True
    try:
        return sorted(labels, key=float), True
    except ValueError:
        return sorted(labels), False


def _cut(bad: Sequence[Problem], rows: int, origin: str) -> list[Problem]:
    if len(bad) == rows > 1 and len({problem.what for problem in bad}) == 1:
        return [Problem(origin, f"in each of {rows:,} rows: {bad[0].what}", bad[0].mend)]
    told = list(bad[:_TOLD])
    return [
        *told,
        Problem(origin, f"{len(bad):,} of {rows:,} rows are unusable", "--skip-bad leaves them out and counts them"),
    ]

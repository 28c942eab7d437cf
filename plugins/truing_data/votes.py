"""Rows that say how people judged two answers, made into pairs: votes, a signed strength, what was shown first.

`ballots` and `favoured` read the cells, one row at a time. `compared` makes the group of a row, and `decided` says of
all groups together which answer is the better one: Dawid and Skene's model needs everybody's votes for that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec

from truing.errors import Problem, UserError
from truing.fields import MARGIN, SOFT, Field, Group
from truing_data.mapping import MappedSource
from truing_data.rows import BadRow, Row, groups_of

Side = Literal["first", "second", "tie"]
SIDES: tuple[Side, Side, Side] = ("first", "tie", "second")
"""What a vote on two answers can say, in an order in which neighbours are closest."""

VOTES: Field[list[Any]] = Field("votes", "pair")
"""(annotator, side) of every vote, until `decided`."""
STRENGTH: Field[list[Any]] = Field("strength", "pair")
"""By how much the first is better, or the second where it is negative, until `decided`."""
SHOWN: Field[list[Any]] = Field("shown", "pair")
"""1 where the first of the two columns was shown first, -1 where the second was, until `decided`."""

_KNOWN: Mapping[str, Side] = {"first": "first", "second": "second", "tie": "tie"}
_KNOWN_TIES = ("equal", "same", "both")
_VOTE = 'a vote is a label, [annotator, label], or {"annotator": ..., "label": ...}'


class Verdict(NamedTuple):
    """The probability that the first is better, and whether the two are tied."""

    first: float
    tied: bool


def ballots(row: Row, columns: Sequence[str]) -> list[tuple[str, str]]:
    """(annotator, label) of every vote of a row; an absent one is null.

    One column holds a label or a list of them, each a label, [annotator, label], or an object of these two; several
    hold a label each. Without a name the annotator is the column, or the place in the list. Raises BadRow.
    """
    found: list[tuple[str, str]] = []
    for column in columns:
        if column not in row:
            raise BadRow(f'no column "{column}"', _columns(row))
        value = row[column]
        if not isinstance(value, list):
            found.extend(_ballot(value, column, f'"{column}"'))
            continue
        for at, entry in enumerate(cast("list[Any]", value), 1):
            found.extend(_ballot(entry, str(at), f'"{column}", vote {at}'))
    if len({annotator for annotator, _ in found}) < len(found):
        twice = Counter(annotator for annotator, _ in found).most_common(1)[0][0]
        raise BadRow(f'annotator "{twice}" votes twice', "one vote each: what somebody says again is no agreement")
    return found


def _ballot(entry: Any, annotator: str, place: str) -> Iterable[tuple[str, str]]:
    if isinstance(entry, dict):
        entry = [cast("dict[str, Any]", entry).get(key) for key in ("annotator", "label")]
    if isinstance(entry, list):
        pair = cast("list[Any]", entry)
        if len(pair) != 2 or isinstance(pair[0], bool) or not isinstance(pair[0], str | int):
            raise BadRow(f"{place} is {pair!r}", _VOTE)
        annotator, entry = str(pair[0]), pair[1]
    if entry is None:
        return
    if not isinstance(entry, str | int | float) or (isinstance(entry, float) and not math.isfinite(entry)):
        raise BadRow(f"{place} is no label", _VOTE)
    yield annotator, label_of(entry)


def label_of(value: str | int | float | bool) -> str:
    """A label as it is written in a file: true, 1 for 1.0, text as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def favoured(label: str, first: str, second: str, favours: Mapping[str, Side]) -> Side:
    """Which answer a label is for. first, second: their columns, which are labels too. Raises BadRow."""
    if favours:
        if label not in favours:
            known = ", ".join(favours)
            raise BadRow(f'the vote "{label}" is not among those of `favours`', f"known there: {known}")
        return favours[label]
    known = {**_KNOWN, **dict.fromkeys(_KNOWN_TIES, "tie"), first: "first", second: "second"}
    side = cast("Side | None", known.get(label) or known.get(label.lower()))
    if side is None:
        mend = 'say it: favours = { "1" = "first", "2" = "second", "0" = "tie" }, with the labels of this file'
        raise BadRow(f'which answer is the vote "{label}" for?', mend)
    return side


def majority(sides: Sequence[Side]) -> Side:
    """The side with most votes; two that share the most are a tie."""
    (side, most), *others = Counter(sides).most_common()
    return "tie" if others and others[0][1] == most else side


def shown_first(value: Any, first: str, second: str) -> int:
    """1 if an `order` cell says that the answer in column `first` was shown first, -1 for `second`. Raises BadRow."""
    label = label_of(value) if isinstance(value, str | int | float) else ""
    if label in (first, "first", "1"):
        return 1
    if label in (second, "second", "2"):
        return -1
    mend = f'"{first}", first or 1; "{second}", second or 2'
    raise BadRow(f"which answer was shown first cannot be told from {value!r}", mend)


def strength_of(row: Row, column: str) -> float:
    """How much better the first is: a number, or the mean of a list of them. Raises BadRow."""
    value = _cell(row, column)
    numbers = cast("list[Any]", value) if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise BadRow(f'"{column}" is {number!r}, not a finite number', "0 is a tie, the sign says which is better")
    if not numbers:
        raise BadRow(f'"{column}" is empty')
    return sum(numbers) / len(numbers)


def compared(row: Row, name: str, options: MappedSource) -> list[Group]:
    """The groups of one row of any kind; of two answers with votes or a strength, one that `decided` finishes.

    Raises BadRow.
    """
    if options.first is None:
        groups = groups_of(row, name, options)
    else:
        plain = {"first": None, "second": None, "votes": None, "strength": None}
        pairs = msgspec.structs.replace(options, chosen=options.first, rejected=options.second, **plain)
        groups = groups_of(row, name, pairs)
    extra: dict[Field[Any], list[Any]] = {}
    first, second = options.first or options.chosen or "", options.second or options.rejected or ""
    if options.votes is not None:
        columns = [options.votes] if isinstance(options.votes, str) else options.votes
        votes = [(who, favoured(label, first, second, options.favours)) for who, label in ballots(row, columns)]
        if not votes:
            raise BadRow("nobody voted", "leave such rows out")
        extra[VOTES] = [votes]
    if options.strength is not None:
        extra[STRENGTH] = [strength_of(row, options.strength) * options.strength_scale]
    if options.position_bias:
        shown = 1 if options.order is None else shown_first(_cell(row, options.order), first, second)
        extra[SHOWN] = [shown]
    return [msgspec.structs.replace(group, extra={**group.extra, **extra}) for group in groups] if extra else groups


def decided(groups: Sequence[Group], options: MappedSource, origin: str) -> tuple[list[Group], int]:
    """Groups whose first completion is the better one, with SOFT and MARGIN, and how many tied ones were left out.

    Raises UserError when nothing is left, or when Dawid and Skene's model is asked for and no pair has two votes.
    """
    if options.first is None:
        if options.position_bias:
            return [_finished(group, Verdict(1.0, False), 0.0, options) for group in groups], 0
        return list(groups), 0
    verdicts = _verdicts(groups, options, origin)
    found = [
        _finished(group, verdict, group.extra.get(STRENGTH, [0.0])[0], options)
        for group, verdict in zip(groups, verdicts, strict=True)
        if options.ties == "keep" or not verdict.tied
    ]
    if groups and not found:
        what = f"all {len(groups):,} pairs are tied, and ties are left out"
        raise UserError(Problem(origin, what, 'ties = "keep" keeps them'))
    return found, len(groups) - len(found)


def _verdicts(groups: Sequence[Group], options: MappedSource, origin: str) -> list[Verdict]:
    if options.strength is not None:
        signs = [math.copysign(1, group.extra[STRENGTH][0]) if group.extra[STRENGTH][0] else 0 for group in groups]
        return [Verdict((1 + sign) / 2, not sign) for sign in signs]
    votes = [group.extra[VOTES][0] for group in groups]
    if options.verdict == "dawid-skene":
        return _posterior(votes, origin)
    if options.verdict == "share":
        return [_share(given) for given in votes]
    winners = [majority([side for _, side in given]) for given in votes]
    return [Verdict({"first": 1.0, "second": 0.0, "tie": 0.5}[winner], winner == "tie") for winner in winners]


def _share(votes: Sequence[tuple[str, Side]]) -> Verdict:
    """The share of votes for the first, of which a tie is half a one."""
    share = sum({"first": 1.0, "second": 0.0, "tie": 0.5}[side] for _, side in votes) / len(votes)
    return Verdict(share, share == 0.5)


def _posterior(votes: Sequence[Sequence[tuple[str, Side]]], origin: str) -> list[Verdict]:
    """What Dawid and Skene's model believes, of which a tie is half a win."""
    from truing_data.held import library

    library("numpy", "data", origin)
    from truing_data.agreement.dawid_skene import dawid_skene
    from truing_data.agreement.table import votes_of

    if max(map(len, votes), default=0) < 2:
        what = "no pair has two votes, so nobody's votes can be held against another's"
        raise UserError(Problem(origin, what, 'use verdict = "majority"'))
    posterior = dawid_skene(votes_of(votes, SIDES)).posterior.tolist()
    return [Verdict(first + tie / 2, tie > max(first, second) or first == second) for first, tie, second in posterior]


def _finished(group: Group, verdict: Verdict, strength: float, options: MappedSource) -> Group:
    """The group with the better answer first, and with what is known of the pair."""
    better, worse = group.pairs[0] if verdict.first >= 0.5 else reversed(group.pairs[0])
    extra = {kind: value for kind, value in group.extra.items() if kind not in (VOTES, STRENGTH, SHOWN)}
    if options.softened:
        extra[SOFT] = [max(verdict.first, 1 - verdict.first)]
    if options.strength is not None:
        extra[MARGIN] = [abs(strength)]
    if options.position_bias:
        shown = group.extra[SHOWN][0] * (1 if verdict.first >= 0.5 else -1)
        extra[MARGIN] = [extra.get(MARGIN, [0.0])[0] - shown * options.position_bias]
    return msgspec.structs.replace(group, pairs=[(better, worse)], extra=extra)


def _cell(row: Row, column: str) -> Any:
    if column not in row:
        raise BadRow(f'no column "{column}"', _columns(row))
    if row[column] is None:
        raise BadRow(f'"{column}" is null')
    return row[column]


def _columns(row: Row) -> str:
    return f"columns here: {', '.join(row)}"

"""Which column of a comparison file means what: what was said, and what its names give away. A guess is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing_data.rows import BadRow
from truing_data.votes import Side, favoured

_PROMPTS = (("prompt",), ("question",), ("instruction", "input"), ("instruction",), ("messages",), ("query",))
_SIDES = (
    ("first", "second"),
    ("a1", "a2"),
    *(
        (f"{word}{gap}{one}", f"{word}{gap}{two}")
        for word in ("response", "answer", "completion", "output")
        for gap in ("", "_")
        for one, two in (("1", "2"), ("a", "b"))
    ),
)
_ONE_VOTE = ("votes", "vote", "preference", "winner", "verdict")
_MANY_VOTES = re.compile(r"(annotation|annotator|vote|label|rater|judge)_?\d+")
_LETTERS: Mapping[str, Side] = {"a": "first", "b": "second"}
_CATEGORIES = ("category", "subset", "domain", "type")
_RANKINGS: Mapping[str, Sequence[str]] = {
    "completions": ("completions", "responses"),
    "rank": ("rank", "ranks"),
    "score": ("score", "scores"),
}


class Columns(msgspec.Struct):
    """Which columns mean what. known: `first` is the better one in every row, as in a file of chosen and rejected."""

    prompt: list[str] = []
    first: str | None = None
    second: str | None = None
    known: bool = False
    votes: list[str] = []
    favours: dict[str, Side] = {}
    scale: list[str] = []
    strength: str | None = None
    order: str | None = None
    annotator: str | None = None
    item: str | None = None
    completions: str | None = None
    rank: str | None = None
    score: str | None = None
    category: list[str] = []


def settled(
    given: Columns, rows: Sequence[Mapping[str, Any]], origin: str, judged: bool = True
) -> tuple[Columns, list[str]]:
    """The columns that were named and those that are guessed, with what was guessed.

    judged: false for a file of which only the texts are asked, of whatever columns are there. Raises UserError for a
    column that no row has, and when there is nothing to look at.
    """
    there = dict.fromkeys(column for row in rows for column in row)
    if not judged:
        given = _texts_of(given, there)
    _require(given, there, origin)
    found, told = msgspec.structs.replace(given), list[str]()
    _guess_answers(found, there, told)
    if judged:
        _guess_votes(found, there, told)
    if not found.prompt:
        found.prompt = list(next((names for names in _PROMPTS if there.keys() >= set(names)), ()))
        told += [f"prompt is {_and(found.prompt)}"] if found.prompt else []
    if not found.category:
        found.category = [name for name in _CATEGORIES if name in there]
        told += [f"categories are {_and(found.category)}"] if found.category else []
    if found.first is None and not found.votes and found.completions is None and (judged or not found.prompt):
        mend = "--chosen and --rejected, --first and --second with --votes, or --votes alone; columns: " + ", ".join(
            there
        )
        raise UserError(Problem(origin, "nothing here looks like a comparison", mend))
    return found, told


def _texts_of(given: Columns, there: Mapping[str, Any]) -> Columns:
    """Those columns of texts, named for another file, that are there."""
    found = Columns(prompt=given.prompt if there.keys() >= set(given.prompt) else [])
    if {given.first, given.second} <= there.keys():
        found.first, found.second, found.known = given.first, given.second, given.known
    elif {given.completions, given.rank or given.score} <= there.keys():
        found.completions, found.rank, found.score = given.completions, given.rank, given.score
    return found


def _require(given: Columns, there: Mapping[str, Any], origin: str) -> None:
    named = msgspec.structs.asdict(given)
    wanted = [name for option, value in named.items() if option not in ("favours", "scale") for name in _listed(value)]
    problems = [
        Problem(origin, f'no row has a column "{name}"', did_you_mean(name, there))
        for name in wanted
        if name not in there
    ]
    if (given.first is None) != (given.second is None):
        problems.append(
            Problem(origin, "one column of two answers is named", "--first and --second, or --chosen and --rejected")
        )
    if given.item is not None and given.annotator is None:
        problems.append(
            Problem(origin, "rows are votes on an item only if somebody gave them", "--annotator names who")
        )
    if given.completions is not None and (given.rank is None) == (given.score is None):
        problems.append(
            Problem(origin, "completions need their order", "--rank, the smallest is best, or --score, the largest")
        )
    if problems:
        raise UserError(problems)


def _guess_answers(found: Columns, there: Mapping[str, Any], told: list[str]) -> None:
    """Two answers, or a ranking, if none is named."""
    if found.first is not None or found.completions is not None:
        return
    if {"chosen", "rejected"} <= there.keys():
        found.first, found.second, found.known = "chosen", "rejected", True
        told.append("the better answer is chosen, the other rejected")
    elif pair := next((pair for pair in _SIDES if set(pair) <= there.keys()), None):
        found.first, found.second = pair
        told.append(f"the two answers are {pair[0]} and {pair[1]}")
    else:
        for option in ("completions", "rank", "score"):
            setattr(found, option, next((name for name in _RANKINGS[option] if name in there), None))
        if found.completions is not None and (found.rank or found.score):
            found.score = None if found.rank else found.score
            told.append(f"{found.completions} are ranked by {found.rank or found.score}")
        else:
            found.completions = found.rank = found.score = None


def _guess_votes(found: Columns, there: Mapping[str, Any], told: list[str]) -> None:
    """The columns of votes, unless which is better is known otherwise."""
    if found.strength is None and not found.votes and not found.known:
        many = [name for name in there if _MANY_VOTES.fullmatch(name) and name not in (found.first, found.second)]
        one = [name for name in _ONE_VOTE if name in there][:1]
        found.votes = many if len(many) > 1 else one
        told += [f"votes are {_and(found.votes)}"] if found.votes else []


def meanings(labels: Mapping[str, str], columns: Columns) -> tuple[dict[str, Side], list[str]]:
    """Which answer each label of the votes is for, and what was guessed. labels: where each stands first.

    Raises UserError where that cannot be told.
    """
    told: list[str] = []
    there = sorted(labels)
    favours: dict[str, Side] = dict(columns.favours)
    if not favours:
        lower = {label.lower() for label in there}
        if "2" in lower and lower <= {"0", "1", "2"}:
            favours = {"1": "first", "2": "second", "0": "tie"}
        elif {"a", "b"} <= lower:
            favours = {label: _LETTERS.get(label.lower(), "tie") for label in there}
        told += ["; ".join(f'a vote "{label}" is for {side}' for label, side in favours.items())] if favours else []
    found: dict[str, Side] = {}
    unclear: list[str] = []
    for label in there:
        try:
            found[label] = favoured(label, columns.first or "", columns.second or "", favours)
        except BadRow:
            unclear.append(label)
    if unclear:
        mend = " ".join(f"--favours {label}=..." for label in unclear[:4]) + ", each first, second or tie"
        quoted = ", ".join(f'"{label}"' for label in unclear[:8])
        raise UserError(Problem(labels[unclear[0]], f"which answer are these votes for: {quoted}?", mend))
    return found, told


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _and(names: Sequence[str]) -> str:
    return ", ".join(names)

"""A constitution: the principles that a model criticises, revises and compares answers by (arXiv:2212.08073).

A TOML file, or the same in Markdown (`markdown`), with a table for each principle:

    [[principle]]
    id = "no-insults"
    critique = "Point out where your answer insults or belittles somebody."
    revision = "Write your answer anew, without insults."
    comparison = "which insults nobody"

and where the model has to be shown how, a table for each example, with the id of a principle:

    [[example]]
    principle = "no-insults"
    prompt = "Who was the last to leave?"
    answer = "The caretaker, you fool."
    critique = "The answer calls the one who asks a fool."
    revised = "The caretaker."

Imports nothing heavy: a recipe's check reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing.stage import Fault
from truing.toml import Document, parse
from truing_texts.markdown import read_markdown


class Principle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """critique, revision: what is asked of the one who answered. comparison: what two answers are compared by, as it
    ends a sentence; "" where nobody compares."""

    id: str
    critique: str
    revision: str
    comparison: str = ""


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer to a prompt, how it is criticised by a principle, and what becomes of it."""

    principle: str
    prompt: str
    answer: str
    critique: str
    revised: str


class Constitution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of principles, and of examples of how they are used."""

    principle: list[Principle]
    example: list[Example] = []


DEFAULT = (
    Principle(
        "harm",
        "Point out everything in your last answer that could help somebody to hurt people, animals or themselves.",
        "Write your last answer anew, without anything that could help somebody to do harm; say kindly what you leave "
        "out and why.",
        "which helps nobody to do harm, and still takes the question seriously",
    ),
    Principle(
        "honesty",
        "Point out every statement of your last answer that is false, or more certain than you can know.",
        "Write your last answer anew, so that what it states is so; where you do not know, say that.",
        "which states nothing false, and says where it does not know",
    ),
    Principle(
        "respect",
        "Point out where your last answer insults, belittles or lectures somebody.",
        "Write your last answer anew, so that it respects everybody it is about and whoever reads it, and lectures "
        "nobody.",
        "which respects everybody it is about and whoever reads it",
    ),
    Principle(
        "use",
        "Point out what your last answer leaves open of what was asked, and what it says that nobody asked for.",
        "Write your last answer anew, so that it answers what was asked, as far as that does no harm, and no more.",
        "which answers what was asked, as far as that does no harm",
    ),
)
"""The principles that come with truing."""


def principles(path: str, *, compared: bool = False) -> tuple[Principle, ...]:
    """The principles of a file, "" for those that come with truing. compared: each must say what answers are compared
    by. Raises UserError with the line of everything that is wrong."""
    return tuple(constitution(path, compared=compared).principle)


def faults(path: str, *, compared: bool = False) -> Iterator[Fault]:
    """What is wrong with the file that the option `constitution` of a component names; see `principles`."""
    try:
        constitution(path, compared=compared)
    except UserError as error:
        yield from (Fault("constitution", f"{each.where}: {each.what}", each.mend) for each in error.problems)


def constitution(path: str, *, compared: bool = False) -> Constitution:
    """What a file holds, in Markdown if it ends in .md and else in TOML; see `principles`."""
    if not path:
        return Constitution(list(DEFAULT))
    try:
        text = _place(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(Problem(path, f"cannot be read: {why}", "name a file of principles")) from None
    read = read_markdown(text, path) if path.endswith(".md") else parse(text, path)
    if wrong := [*_misshapen(read)] or [*_unsound(read, compared)]:
        raise UserError(wrong)
    return msgspec.convert(read.values, Constitution)


_KINDS: Mapping[str, type[msgspec.Struct]] = {"principle": Principle, "example": Example}


def _misshapen(read: Document) -> Iterator[Problem]:
    """What is no table of texts."""
    for kind, tables in read.values.items():
        if kind not in _KINDS:
            yield Problem(read.where(kind), f'no "{kind}" in a constitution', did_you_mean(kind, _KINDS))
        elif not isinstance(tables, list) or not all(isinstance(table, dict) for table in cast("list[Any]", tables)):
            yield Problem(read.where(kind), f'"{kind}" is no list of tables', f"write each as [[{kind}]]")
        else:
            for at, key, value in ((at, *each) for at, table in enumerate(tables) for each in table.items()):
                known = _KINDS[kind].__struct_fields__
                if key not in known:
                    yield Problem(read.where(kind, at, key), f'no "{key}" in [[{kind}]]', did_you_mean(key, known))
                elif not isinstance(value, str):
                    yield Problem(read.where(kind, at, key), f"{key} is no text", "write it in quotation marks")


def _unsound(read: Document, compared: bool) -> Iterator[Problem]:
    """A principle that lacks something, or is the same as another, and an example of none."""
    every: list[dict[str, str]] = read.values.get("principle", [])
    if not every:
        yield Problem(read.where("principle"), "there are no principles", 'write one as [[principle]], or "## ID"')
    needed = {"principle": ("id", "critique", "revision", *(("comparison",) if compared else ()))}
    needed["example"] = Example.__struct_fields__
    for kind, names in needed.items():
        for at, table in enumerate(read.values.get(kind, [])):
            for name in (name for name in names if not table.get(name, "").strip()):
                whose = table.get("id") or table.get("principle") or f"number {at + 1}"
                yield Problem(read.where(kind, at, name), f'{kind} "{whose}" has no {name}', f"write its {name}")
    for name in (name for name in needed["principle"] if name != "revision"):
        first: dict[str, int] = {}
        for at, text in enumerate(table.get(name, "").strip() for table in every):
            if text and first.setdefault(text, at) != at:
                what = f'{name} "{text}" is that of the principle at {read.where("principle", first[text])}'
                yield Problem(read.where("principle", at, name), what, "keep one of them")
    known = [table.get("id", "") for table in every]
    for at, table in enumerate(read.values.get("example", [])):
        if (of := table.get("principle", "")) and of not in known:
            what = f'an example of the principle "{of}", which is none of its own'
            yield Problem(read.where("example", at, "principle"), what, did_you_mean(of, known))


def _place(path: str) -> Path:
    """The file that a path names: one of an installed package as pkg:PACKAGE/FILE."""
    package, _, inside = path.removeprefix("pkg:").partition("/")
    found = find_spec(package) if path.startswith("pkg:") and package.isidentifier() else None
    if found and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]) / inside
    return Path(path).expanduser()

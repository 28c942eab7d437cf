"""A constitution: the principles that a model criticises, revises and compares answers by (arXiv:2212.08073).

A TOML file, a table for each principle:

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

import tomllib
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from truing.errors import did_you_mean


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


class Unfit(Exception):
    """Why a file is no constitution, and the mend."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


def principles(path: str, *, compared: bool = False) -> tuple[Principle, ...]:
    """The principles of a file, "" for those that come with truing. compared: each must say what answers are compared
    by. Raises Unfit."""
    return tuple(constitution(path, compared=compared).principle)


def constitution(path: str, *, compared: bool = False) -> Constitution:
    """What a file holds; see `principles`."""
    if not path:
        return Constitution(list(DEFAULT))
    try:
        read = tomllib.loads(_place(path).read_text(encoding="utf-8"))
        found = msgspec.convert(read, Constitution)
    except OSError as error:
        raise Unfit(f"cannot read {path}: {error.strerror}", "name a file of principles") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        mend = "write each as [[principle]] with id, critique, revision and, where answers are compared, comparison"
        raise Unfit(f"{path} is no constitution: {error}", mend) from None
    if not found.principle:
        raise Unfit(f"{path} has no principles", "write one as [[principle]]")
    _sound(path, found, ("id", "critique", "revision", *(("comparison",) if compared else ())))
    return found


def _sound(path: str, found: Constitution, said: Sequence[str]) -> None:
    """Raises Unfit for a principle that lacks something, for two that are the same, and for an example of none."""
    for each in found.principle:
        for name in (name for name in said if not getattr(each, name).strip()):
            raise Unfit(f'principle "{each.id}" of {path} has no {name}', f"write {name}, or take it out")
    for name in (name for name in said if name != "revision"):
        text, count = Counter(getattr(each, name) for each in found.principle).most_common(1)[0]
        if count > 1:
            raise Unfit(f"{path} has {count} principles with {name} = {text!r}", "keep one of them")
    known = [each.id for each in found.principle]
    for each in found.example:
        if each.principle not in known:
            what = f'an example of {path} is of the principle "{each.principle}", which is none of its own'
            raise Unfit(what, did_you_mean(each.principle, known))


def _place(path: str) -> Path:
    """The file that a path names: one of an installed package as pkg:PACKAGE/FILE."""
    package, _, inside = path.removeprefix("pkg:").partition("/")
    found = find_spec(package) if path.startswith("pkg:") and package.isidentifier() else None
    if found and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]) / inside
    return Path(path).expanduser()

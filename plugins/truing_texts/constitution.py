"""A constitution: the principles that a model criticises, revises and compares answers by (arXiv:2212.08073).

A TOML file, a table for each principle:

    [[principle]]
    id = "no-insults"
    critique = "Point out where your answer insults or belittles somebody."
    revision = "Write your answer anew, without insults."
    comparison = "which insults nobody"

Imports nothing heavy: a recipe's check reads it.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import msgspec


class Principle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """critique, revision: what is asked of the one who answered. comparison: what two answers are compared by, as it
    ends a sentence; "" where nobody compares."""

    id: str
    critique: str
    revision: str
    comparison: str = ""


class Constitution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of principles."""

    principle: list[Principle]


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
    if not path:
        return DEFAULT
    try:
        read = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        found = msgspec.convert(read, Constitution).principle
    except OSError as error:
        raise Unfit(f"cannot read {path}: {error.strerror}", "name a file of principles") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        mend = "write each as [[principle]] with id, critique, revision and, where answers are compared, comparison"
        raise Unfit(f"{path} is no constitution: {error}", mend) from None
    if not found:
        raise Unfit(f"{path} has no principles", "write one as [[principle]]")
    for each in found:
        said = [("id", each.id), ("critique", each.critique), ("revision", each.revision)]
        for name, text in [*said, *([("comparison", each.comparison)] if compared else [])]:
            if not text.strip():
                raise Unfit(f'principle "{each.id}" of {path} has no {name}', f"write {name}, or take it out")
    for name in ("id", "critique"):
        text, count = Counter(getattr(each, name) for each in found).most_common(1)[0]
        if count > 1:
            raise Unfit(f"{path} has {count} principles with {name} = {text!r}", "keep one of them")
    return tuple(found)

"""Where in a text its answer stands. Every search here takes time in proportion to the text."""

from __future__ import annotations

import re
from fractions import Fraction

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\d.])(-?\$?-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:(?<=\d)|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d{1,3}\b)?)"
    r"(?:\s?/\s?(\d+)(?![\d.]))?",
    re.ASCII,
)
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_CALLED = re.compile(
    r"\b(?:answer|option|choice)\b[^A-Za-z0-9\n]{0,8}(?:is\b[^A-Za-z0-9\n]{0,8})?([A-J])\b", re.IGNORECASE
)
_BRACKETED = re.compile(r"\(([A-J])\)")
_LETTER = re.compile(r"(?<![\w'’])([A-J])(?![\w'’])")
_LONGEST = 400
"""Digits of a number that is still read: no answer has more, and arithmetic with them would be slow."""


def behind(text: str, mark: str) -> str:
    """What stands behind a mark where it stands for the last time; all of the text without a mark, or without it."""
    return text.rpartition(mark)[2] if mark else text


def boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, with the braces inside of it; None where there is none that is closed."""
    for start in reversed([found.end() for found in _BOX.finditer(text)][-8:]):
        depth = 1
        for brace in _BRACES.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                return text[start : brace.start()].strip()
    return None


def option(text: str) -> str | None:
    """The letter that a multiple-choice question is answered with; None where there is none.

    What is in a box is that before what is called the answer, before what is in brackets, before any single letter; the
    words A and I are no letters unless they are all there is.
    """
    inside = boxed(text)
    if inside and (found := _LETTER.findall(inside)):
        return found[-1]
    if len(bare := text.strip().strip("().:*")) == 1 and bare.upper() in "ABCDEFGHIJ":
        return bare.upper()
    for pattern in (_CALLED, _BRACKETED):
        if found := pattern.findall(text):
            return found[-1].upper()
    found = [letter for letter in _LETTER.findall(text) if letter not in "AI"]
    return found[-1] if found else None


def number(text: str) -> Fraction | None:
    """The last number of a text: 1,234.50, $5, -3, 1e-4 or 3/4; None where there is none."""
    found = _NUMBER.findall(text)
    if not found or len(found[-1][0] + found[-1][1]) > _LONGEST:
        return None
    over = int(found[-1][1] or 1)
    return Fraction(re.sub(r"[$,]", "", found[-1][0])) / over if over else None


def code(text: str) -> str:
    """The Python of a text: what the last fenced block holds that is marked as such or not at all; else all of it."""
    blocks = [body for mark, body in _FENCE.findall(text) if mark.lower() in ("", "python", "python3", "py")]
    return blocks[-1] if blocks else text


def fenced(text: str) -> str:
    """What a text holds that is one fenced block and nothing else; any other text as it is."""
    found = _FENCE.fullmatch(text.strip())
    return found[2] if found else text

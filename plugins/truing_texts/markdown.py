"""A constitution in Markdown, read as the tables that it would be in TOML.

    ## no-insults

    Critique: Point out where your answer insults or belittles somebody.

    Revision: Write your answer anew, without insults.

    Comparison: which insults nobody

    ### Example

    Prompt: Who was the last to leave?

    ...

What stands before the first principle is for people. Imports nothing heavy: a recipe's check reads it.
"""

from __future__ import annotations

import re
from typing import Any

from truing.errors import Problem, UserError, did_you_mean
from truing.toml import Document, Path

_LABELS = {"principle": ("critique", "revision", "comparison"), "example": ("prompt", "answer", "critique", "revised")}
_HEADING = re.compile(r"(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*")
_LABEL = re.compile(r"\s*(?:\*\*)?(\w+(?: \w+)?)(?::\*\*|\*\*:|:)(?:\s+|$)")
"""One or two words and a colon at the beginning of a line, in bold or not."""


def read_markdown(text: str, name: str) -> Document:
    """What a text holds, with the line of every principle, example and label; a text in several lines is one, and its
    paragraphs are kept. Raises UserError with every line that is out of place."""
    found = Document(name, {kind: [] for kind in _LABELS})
    problems: list[Problem] = []
    table, key = dict[str, str](), ""
    place: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if heading := _HEADING.fullmatch(line):
            opened = _opened(len(heading[1]), heading[2] or "", found.values["principle"])
            if opened:
                kind, table = opened
                place, key = (kind, len(found.values[kind])), ""
                found.values[kind].append(table)
                found.lines[place] = number
            elif place or len(heading[1]) > 1:
                what = f'the heading "{line.strip()}" begins neither a principle nor an example of one'
                problems.append(Problem(f"{name}:{number}", what, 'write "## ID", or "### Example" behind a principle'))
        elif place and (label := _LABEL.match(line)):
            key = label[1].lower()
            if wrong := _misplaced(key, place[0], table):
                problems.append(Problem(f"{name}:{number}", *wrong))
            table[key] = line[label.end() :]
            found.lines[(*place, key)] = number
        elif key:
            table[key] += f"\n{line.strip()}"
        elif place and line.strip():
            problems.append(Problem(f"{name}:{number}", "a text without a label", "begin it with Critique: or another"))
    if problems:
        raise UserError(problems)
    for table in (table for tables in found.values.values() for table in tables):
        table.update({key: _joined(value) for key, value in table.items()})
    return found


def _opened(level: int, title: str, principles: list[Any]) -> tuple[str, dict[str, str]] | None:
    """What a heading begins, and of which kind that is."""
    if level == 2:
        return "principle", {"id": title}
    if level == 3 and title.lower() == "example" and principles:
        return "example", {"principle": principles[-1]["id"]}
    return None


def _misplaced(key: str, kind: Any, table: dict[str, str]) -> tuple[str, str] | None:
    """What is wrong with a label there, and the mend."""
    if key not in _LABELS[kind]:
        return f'no label "{key}" here', did_you_mean(key, _LABELS[kind])
    return (f'a second "{key}"', "keep one of them") if key in table else None


def _joined(text: str) -> str:
    """A text with its lines made one, paragraph by paragraph."""
    return "\n\n".join(" ".join(part.split("\n")) for part in re.split(r"\n{2,}", text.strip()))

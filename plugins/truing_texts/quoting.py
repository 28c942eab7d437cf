"""Texts shown to a model so that it sees where each begins and ends. Imports nothing heavy: menus use it."""

from __future__ import annotations

from truing.fields import Text

MARK = "> "
"""What every line of a quoted text begins with."""


def quoted(text: str) -> str:
    """A text with a mark before each of its lines, whatever ends them; one without words is a mark alone."""
    return "\n".join(MARK + line for line in text.splitlines()) or MARK.rstrip()


def words(text: Text) -> str:
    """What a completion says, of one of several turns all of them."""
    return text if isinstance(text, str) else "\n".join(turn["content"] for turn in text)

"""What a completion answers, so that completions that say the same can be counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from truing.errors import Problem, UserError

RULES = ("number", "line", "text")
"""The last number; the last line that is not blank; all of it. Anything else is a regular expression."""

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")


def reader(rule: str) -> Callable[[str], str | None]:
    """A function from a text to its answer, None where it has none. Raises UserError for no regular expression."""
    if rule == "number":
        return lambda text: _last(_NUMBER, text)
    if rule == "line":
        return lambda text: canonical(lines[-1]) if (lines := text.strip().splitlines()) else None
    if rule == "text":
        return lambda text: canonical(text) or None
    try:
        pattern = re.compile(rule)
    except re.error as error:
        what = f"{rule!r} is no rule and no regular expression: {error}"
        raise UserError(Problem("--answer", what, f"the rules are {', '.join(RULES)}")) from None
    return lambda text: _last(pattern, text)


def canonical(answer: str) -> str:
    """An answer without blanks around it, and a number written in one way: 1,000.0 is 1000."""
    answer = answer.strip()
    if not _NUMBER.fullmatch(answer):
        return answer
    number = Decimal(answer.replace(",", ""))
    return f"{number.normalize():f}" if number else "0"


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    """What the last match says, in its first group if it has groups; None without a match."""
    matches = list(pattern.finditer(text))
    if not matches:
        return None
    said = matches[-1][1] if pattern.groups else matches[-1][0]
    return canonical(said) or None if said is not None else None

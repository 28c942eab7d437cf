"""A calculator. What a model wrote is data: it is read by the grammar below and never executed.

sum      = product (("+" | "-") product)*
product  = factor (("*" | "/") factor)*
factor   = "-" factor | "(" sum ")" | number
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from truing.run import Run
from truing.stage import Reply, Said, Task
from truing_environment import plugin

LONGEST = 120
"""characters of an expression that is still read: so it is neither nested deeply nor of long numbers"""
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/()])", re.ASCII)


class Calculator:
    """Answers expressions. It knows nothing of the task, so one episode serves all."""

    def __init__(self, spec: plugin.Calculator, run: Run) -> None:
        self._spec = spec

    async def reset(self, task: Task) -> Calculator:
        """Itself."""
        return self

    async def step(self, said: Said) -> Reply:
        """The result of a turn that ends with "="; the end of the rollout for any other."""
        if said.ended_by != "=":
            return Reply(done=True)
        text = said.text.rpartition(self._spec.opening or "\n")[2]
        try:
            found = written(evaluated(text), self._spec.digits)
        except (ValueError, ZeroDivisionError):
            found = self._spec.wrong
        return Reply(found + self._spec.closing)

    async def close(self) -> None:
        """Nothing is held."""


def evaluated(text: str) -> Fraction:
    """What an expression comes to, exactly. Raises ValueError for what is none, and ZeroDivisionError."""
    if len(text) > LONGEST:
        raise ValueError(f"more than {LONGEST} characters")
    tokens = [*_tokens(text), ""]
    value, at = _sum(tokens, 0)
    if tokens[at]:
        raise ValueError(f"{tokens[at]} where the expression should end")
    return value


def written(value: Fraction, digits: int) -> str:
    """A number without a fraction where it has none, else with at most so many decimal places, the last rounded."""
    scaled = round(value * 10**digits)
    whole, rest = divmod(abs(scaled), 10**digits)
    decimals = f"{rest:0{digits}d}".rstrip("0") if digits else ""
    return f"{'-' if scaled < 0 else ''}{whole}{'.' if decimals else ''}{decimals}"


def _tokens(text: str) -> Iterator[str]:
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"{text[at:]!r} is no expression")
        yield found[1]
        at = found.end()


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while tokens[at] in ("+", "-"):
        term, after = _product(tokens, at + 1)
        value, at = (value + term if tokens[at] == "+" else value - term), after
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at)
    while tokens[at] in ("*", "/"):
        factor, after = _factor(tokens, at + 1)
        value, at = (value * factor if tokens[at] == "*" else value / factor), after
    return value, at


def _factor(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "-":
        value, after = _factor(tokens, at + 1)
        return -value, after
    if tokens[at] == "(":
        value, after = _sum(tokens, at + 1)
        if tokens[after] != ")":
            raise ValueError("a bracket that is not closed")
        return value, after + 1
    return Fraction(tokens[at]), at + 1

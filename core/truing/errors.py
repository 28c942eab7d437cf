"""What goes wrong, said to a person: where, what, and how to mend it.

    TruingError
    ├── UserError      the user's input is wrong: a recipe, a data file, an option. Exit status 2, never a traceback.
    └── RunFailed      the input was fine and the run broke. Exit status 1.

Many problems travel in one `UserError`, because a user mends a file once, not once per mistake.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

_COMMANDS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def shown(text: str) -> str:
    """A text as a terminal may be given it: characters that would command it, as data and servers may have them, are
    spelled out."""
    return text.translate(_COMMANDS)


@dataclass(frozen=True)
class Problem:
    """One mistake: `where` it stands (`file:line`), `what` is wrong, and the `mend`, if one is known."""

    where: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        indent = " " * (len(self.where) + 2)
        return f"{self.where}  {self.what}" + (f"\n{indent}{self.mend}" if self.mend else "")


class TruingError(Exception):
    """Everything truing raises on purpose."""


class UserError(TruingError, ValueError):
    """The user's input is wrong. Carries every problem that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class RunFailed(TruingError):
    """A run that started cannot go on; the message says at which step and why."""


def first_cause(error: BaseException) -> BaseException:
    """What went wrong first, out of the groups that task groups wrap it in."""
    while isinstance(error, BaseExceptionGroup):
        error = cast(BaseExceptionGroup[BaseException], error).exceptions[0]
    return error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or all of them if none is close and they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known here: {', '.join(names)}" if 0 < len(names) <= 12 else ""

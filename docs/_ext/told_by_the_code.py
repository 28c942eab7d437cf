"""The parts of the documentation that the code tells by itself.

A line `<!-- told: WHAT ARGUMENT -->` in a page is replaced, before it is parsed, by Markdown made from the code:

    components KIND   every built-in component of a kind
    contract KIND     what a stage of a kind must do
    loop              the options of [loop]
    until             the options of a condition that ends a phase
    best              the options of the best look
    failures          what may go wrong before a phase does
    fields            the vocabulary of a batch
    events            every event with its members
    hooks             every hook with its signature
    commands          every command with its help
    skeleton FILE     a file that `truing init --plugin` writes
    pictures NAME     every docs/_static/NAME-*.png there is

A page that has such a line is read again in every build, since what it says may have changed without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catalogue
import tellings

TOLD = re.compile(r"^<!-- told: ([a-z]+)(?: (.+?))? -->$", re.MULTILINE)

TELLERS: dict[str, Callable[..., str]] = {
    "components": catalogue.components,
    "contract": catalogue.contract,
    "loop": catalogue.loop,
    "until": catalogue.until,
    "best": catalogue.best,
    "failures": catalogue.failures,
    "fields": tellings.fields,
    "events": tellings.events,
    "hooks": tellings.hooks,
    "commands": tellings.commands,
    "skeleton": tellings.skeleton,
}


def expand(text: str, pictures: Callable[[str], str]) -> str:
    """A page with every telling in its place. Raises KeyError for one that nobody knows."""
    tellers = {**TELLERS, "pictures": pictures}
    return TOLD.sub(lambda found: tellers[found[1]](*([found[2]] if found[2] else [])), text)


def _expand(app: Any, page: str, source: list[str]) -> None:
    if not TOLD.search(source[0]):
        return
    root = "../" * page.count("/")
    static = Path(app.srcdir) / "_static"
    source[0] = expand(source[0], lambda name: tellings.pictures(static, name, f"{root}_static"))
    app.env.note_reread()


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", _expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""What this plugin brings: an observer that shows a run to a person, or to a program that reads lines."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.plugins import hookimpl
from truing.stage import AnySpec, ObserverSpec


class Console(ObserverSpec, frozen=True, kw_only=True):
    """Shows a run while it goes on: a bar in a terminal, plain lines elsewhere, or every event as a line of JSON.

    What is for people goes to stderr, JSON to stdout.
    """

    name: ClassVar[str] = "console"
    target: ClassVar[str] = "truing_console.observer:ConsoleObserver"

    mode: Annotated[
        Literal["auto", "bar", "plain", "json", "quiet"],
        Meta(description="auto: a bar in a terminal, plain lines elsewhere; json: events on stdout; quiet: nothing"),
    ] = "auto"
    every: Annotated[int, Meta(ge=1, description="steps between two plain lines")] = 10


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    return [Console]

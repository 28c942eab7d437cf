"""How components come in: pluggy hooks, found through entry points of the group `truing`.

Built-in plugins take the same road as everybody's. Each entry point is loaded inside a guard: a plugin that cannot be
imported is a line in `truing plugins`, never the end of the command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple, cast

import pluggy

from truing.errors import Problem, UserError
from truing.registry import Registry
from truing.stage import AnySpec

GROUP = "truing"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Command(NamedTuple):
    """A command that a plugin adds to `truing`.

    name: a word, or two of which the first is shared, like `data report`. target: `module:function`, with parameters as
    typer reads them. Its module is imported for `truing -h` as well, so it imports what is heavy when it is called.
    """

    name: str
    target: str


class Hooks:
    """All that a plugin may implement."""

    @hookspec
    def truing_specs(self) -> list[type[AnySpec]]:  # pyright: ignore[reportReturnType]
        """The components this plugin brings."""

    @hookspec
    def truing_recipes(self) -> list[Path]:  # pyright: ignore[reportReturnType]
        """Folders of recipes this plugin ships, for `truing init`."""

    @hookspec
    def truing_commands(self) -> list[Command]:  # pyright: ignore[reportReturnType]
        """Commands this plugin adds to `truing`."""


@dataclass(frozen=True)
class Loaded:
    """One plugin that was found. error: why it is not in use, "" if it is. seconds: how long its import took."""

    name: str
    package: str
    version: str
    seconds: float
    specs: int = 0
    error: str = ""


@dataclass(frozen=True)
class Plugins:
    """What discovery found: the components, and for every plugin what became of it. commands: by name."""

    registry: Registry
    loaded: list[Loaded]
    recipes: list[Path]
    commands: dict[str, Command] = field(default_factory=dict[str, Command])

    @property
    def hint(self) -> str:
        """Said below an unknown component when some plugin did not load."""
        broken = [plugin.name for plugin in self.loaded if plugin.error]
        return f"plugins that did not load: {', '.join(broken)} (see `truing plugins`)" if broken else ""


def discover(block: Collection[str] = ()) -> Plugins:
    """Load every plugin but the blocked ones; TRUING_BLOCK names more of them, separated by commas."""
    blocked = {*block, *filter(None, map(str.strip, os.environ.get("TRUING_BLOCK", "").split(",")))}
    found = Plugins(Registry(), [], [])
    entries = sorted(entry_points(group=GROUP), key=_strangers_last)
    if unknown := blocked - {entry.name for entry in entries}:
        known = ", ".join(entry.name for entry in entries)
        raise UserError(Problem("--block", f"no plugin called {', '.join(sorted(unknown))}", f"found here: {known}"))
    for entry in entries:
        if entry.name not in blocked:
            found.loaded.append(_load(entry, found))
    return found


def _load(entry: EntryPoint, into: Plugins) -> Loaded:
    package = entry.dist.name if entry.dist else entry.module
    version = entry.dist.version if entry.dist else ""
    start = time.perf_counter()
    specs: list[type[AnySpec]] = []
    try:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(Hooks)
        manager.register(entry.load(), entry.name)
        manager.check_pending()
        for brought in cast("list[list[type[AnySpec]]]", manager.hook.truing_specs()):
            specs.extend(brought)
        shipped = [path for paths in cast("list[list[Path]]", manager.hook.truing_recipes()) for path in paths]
        commands = [command for some in cast("list[list[Command]]", manager.hook.truing_commands()) for command in some]
        if taken := [command.name for command in commands if command.name in into.commands]:
            raise UserError(Problem(entry.name, f"another plugin has the command `truing {taken[0]}` already"))
        into.registry.add_all(specs, entry.name)
        into.recipes.extend(shipped)
        into.commands.update({command.name: command for command in commands})
    except UserError as refused:
        return Loaded(entry.name, package, version, time.perf_counter() - start, 0, refused.problems[0].what)
    except Exception as broken:  # a stranger's module may raise anything; its failure is data for `truing plugins`
        reason = f"{type(broken).__name__}: {broken}"
        return Loaded(entry.name, package, version, time.perf_counter() - start, 0, reason)
    return Loaded(entry.name, package, version, time.perf_counter() - start, len(specs))


def _strangers_last(entry: EntryPoint) -> tuple[bool, str]:
    """On a clash of names it is the later plugin that is refused, so the built-in ones come first."""
    return (entry.dist is None or entry.dist.name != "truing", entry.name)

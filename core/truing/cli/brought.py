"""The commands that plugins bring, beside those of the kernel."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperGroup

from truing.plugins import Command


class Commands(TyperGroup):
    """The kernel's commands first; plugins are looked at when there is none of a name, and for `truing -h`."""

    @cached_property
    def brought(self) -> Mapping[str, list[Command]]:
        """What plugins bring, by the first word."""
        from truing.plugins import discover

        found: dict[str, list[Command]] = {}
        for command in discover().commands.values():
            found.setdefault(command.name.partition(" ")[0], []).append(command)
        return found

    def list_commands(self, ctx: Any) -> list[str]:
        """Every first word, the kernel's before the plugins'."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in self.brought if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, None if there is none."""
        own = super().get_command(ctx, cmd_name)
        return own or (_made(self.brought[cmd_name]) if cmd_name in self.brought else None)


def _made(commands: list[Command]) -> Any:
    """A command of one word, or the group of those that share their first."""
    made = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
    about: list[str] = []
    for command in commands:
        module, _, function = command.target.partition(":")
        called, work = command.name.rpartition(" ")[2], getattr(importlib.import_module(module), function)
        made.command(called)(work)
        about.append(f"{called}: {(work.__doc__ or '').strip().partition(chr(10))[0]}")
    if " " in commands[0].name:
        made.callback(help=" · ".join(about))(lambda: None)
    return typer.main.get_command(made)

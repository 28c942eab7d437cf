"""What this plugin brings: a command that plays the online loop on a clock of its own."""

from __future__ import annotations

from truing.plugins import Command, hookimpl


@hookimpl
def truing_commands() -> list[Command]:
    """`truing simulate`."""
    return [Command("simulate", "truing_simulate.command:simulate")]

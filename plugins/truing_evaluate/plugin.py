"""What this plugin brings: commands that say what scores are worth."""

from __future__ import annotations

from truing.plugins import Command, hookimpl


@hookimpl
def truing_commands() -> list[Command]:
    """`truing evaluate`, `truing select` and `truing overoptimize`."""
    return [
        Command("evaluate", "truing_evaluate.commands:evaluate"),
        Command("select", "truing_evaluate.commands:select"),
        Command("overoptimize", "truing_evaluate.overoptimize:overoptimize"),
    ]

"""What this plugin brings: commands that say what scores are worth, and looks at what a model that learns writes."""

from __future__ import annotations

from truing.plugins import Command, hookimpl
from truing.stage import AnySpec
from truing_evaluate.menu_looks import PassAtK


@hookimpl
def truing_commands() -> list[Command]:
    """`truing evaluate`, `truing select` and `truing overoptimize`."""
    return [
        Command("evaluate", "truing_evaluate.commands:evaluate"),
        Command("select", "truing_evaluate.commands:select"),
        Command("overoptimize", "truing_evaluate.overoptimize:overoptimize"),
    ]


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Looks."""
    return [PassAtK]

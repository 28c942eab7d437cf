"""What this plugin brings: commands that say what scores are worth and what alignment did to a model, prompts to ask
it, and looks at what a model that learns writes."""

from __future__ import annotations

from truing.plugins import Command, hookimpl
from truing.stage import AnySpec
from truing_evaluate.menu_looks import PassAtK
from truing_evaluate.menu_probes import Measures, Probes


@hookimpl
def truing_commands() -> list[Command]:
    """`truing evaluate`, `truing select`, `truing overoptimize`, `truing measure` and `truing audit`."""
    return [
        Command("evaluate", "truing_evaluate.commands:evaluate"),
        Command("select", "truing_evaluate.commands:select"),
        Command("overoptimize", "truing_evaluate.overoptimize:overoptimize"),
        Command("measure", "truing_evaluate.measure:measure"),
        Command("audit", "truing_evaluate.audit:audit"),
    ]


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Looks, and the prompts of one of them."""
    return [PassAtK, Measures, Probes]

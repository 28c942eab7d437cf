"""The menu of pluralism."""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_pluralism.menu_groups import GROUPS
from truing_pluralism.menu_losses import LOSSES
from truing_pluralism.menu_planted import PlantedAnnotators


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Losses on comparisons by people who do not agree, objectives that are just to groups of them, and people made
    up to try both out."""
    return [*LOSSES, *GROUPS, PlantedAnnotators]

"""What this plugin brings: components, a disk and a server that fail on purpose."""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_faults.menu_places import FaultyDisk, FaultyServer
from truing_faults.menu_stages import FaultyEnvironment, FaultyGenerator, FaultyObserver, FaultyScorer, FaultySource


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """What fails on purpose."""
    return [FaultySource, FaultyGenerator, FaultyEnvironment, FaultyScorer, FaultyObserver, FaultyDisk, FaultyServer]

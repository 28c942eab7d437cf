"""The menu of oversight."""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_oversight.menu_amplify import AMPLIFICATION
from truing_oversight.menu_debate import DEBATES
from truing_oversight.menu_weak import WeakLabels, WeakToStrong


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """What a weak supervisor says of pairs, and the loss of a student that is to see further; debates, and who judges
    them; overseers who ask a model for help."""
    return [WeakLabels, WeakToStrong, *DEBATES, *AMPLIFICATION]

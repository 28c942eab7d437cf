"""truing: preference learning and RLHF from typed parts.

Importing this package imports nothing heavy; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truing.bus import Bus as Bus
    from truing.errors import (
        Problem as Problem,
        RunFailed as RunFailed,
        TruingError as TruingError,
        UserError as UserError,
    )
    from truing.events import Event as Event
    from truing.fields import Batch as Batch, Field as Field, Fields as Fields, Group as Group
    from truing.plugins import discover as discover, hookimpl as hookimpl
    from truing.recipe import Recipe as Recipe, load as load
    from truing.registry import Registry as Registry
    from truing.run import Run as Run
    from truing.stage import (
        AdvantageSpec as AdvantageSpec,
        AnySpec as AnySpec,
        ControllerSpec as ControllerSpec,
        EnvironmentSpec as EnvironmentSpec,
        Fault as Fault,
        GeneratorSpec as GeneratorSpec,
        LookSpec as LookSpec,
        LossSpec as LossSpec,
        LossValue as LossValue,
        ModelSpec as ModelSpec,
        ObserverSpec as ObserverSpec,
        OptimizerSpec as OptimizerSpec,
        ScorerSpec as ScorerSpec,
        SourceSpec as SourceSpec,
        Spec as Spec,
        Term as Term,
    )

_HOMES = {
    "bus": ("Bus",),
    "errors": ("Problem", "RunFailed", "TruingError", "UserError"),
    "events": ("Event",),
    "fields": ("Batch", "Field", "Fields", "Group"),
    "plugins": ("discover", "hookimpl"),
    "recipe": ("Recipe", "load"),
    "registry": ("Registry",),
    "run": ("Run",),
    "stage": (
        "AdvantageSpec",
        "AnySpec",
        "ControllerSpec",
        "EnvironmentSpec",
        "Fault",
        "GeneratorSpec",
        "LookSpec",
        "LossSpec",
        "LossValue",
        "ModelSpec",
        "ObserverSpec",
        "OptimizerSpec",
        "ScorerSpec",
        "SourceSpec",
        "Spec",
        "Term",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'truing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"truing.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)

"""What components have in common that stand around another one of their kind."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from truing.fields import Fields
from truing.stage import AnySpec


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """A component that is, to whoever asks, the one inside of it. That is an option which is called as its kind."""

    kind: ClassVar[str]

    @property
    def inside(self) -> AnySpec:
        """The component inside."""
        return getattr(self, self.kind)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of it, `samples` for example, is what the component inside says."""
        if name == self.kind:
            raise AttributeError(name)
        return getattr(self.inside, name)

    def requires(self) -> Fields:
        """What the component inside needs."""
        return self.inside.requires()

    def provides(self) -> Fields:
        """What the component inside adds."""
        return self.inside.provides()

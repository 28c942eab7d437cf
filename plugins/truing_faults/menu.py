"""Options that whatever injects faults has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from truing.stage import Fault
from truing_remote.around import Around

Share = Annotated[float, Meta(ge=0, le=1)]


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls meet a fault is drawn from the run's seed, what it is called, and the faults there were before: a run
    that is resumed meets others. What was drawn is in `faults.jsonl`, in the folder of the phase or of the run.

    chances: the option that gives the share of each fault, by the fault's name.
    """

    chances: ClassVar[Mapping[str, str]] = {}

    seconds: Annotated[float, Meta(ge=0, description="how long a delay takes")] = 1.0
    after: Annotated[int, Meta(ge=0, description="so many calls are let through first, after every start")] = 0
    most: Annotated[int, Meta(ge=0, description="most faults of a phase, those before a resume too; 0: no limit")] = 0
    seed: Annotated[int, Meta(description="another number draws others: for a second component of the same kind")] = 0

    def shares(self) -> dict[str, float]:
        """The share of calls that meet each fault."""
        return {what: getattr(self, option) for what, option in self.chances.items()}

    def problems(self) -> Iterator[Fault]:
        """More faults than calls."""
        if sum(self.shares().values()) > 1:
            options = list(self.chances.values())
            yield Fault(options[0], f"{', '.join(options)} are more than 1 together", "a call meets one fault")


class Chances(Around, Drawn, frozen=True, kw_only=True):
    """What may go wrong with a call."""

    chances: ClassVar = {"delay": "delays", "raise": "raises", "hang": "hangs", "kill": "kills"}

    delays: Annotated[Share, Meta(description="share of calls that take `seconds` longer")] = 0.0
    raises: Annotated[Share, Meta(description="share of calls that raise")] = 0.0
    hangs: Annotated[Share, Meta(description="share of calls that never come back")] = 0.0
    kills: Annotated[Share, Meta(description="share of calls that kill the process they are in with SIGKILL")] = 0.0


class Spoils(Chances, frozen=True, kw_only=True):
    """What may be wrong with an answer, too."""

    chances: ClassVar = {**Chances.chances, "nan": "nans", "short": "shorts", "type": "types"}

    nans: Annotated[Share, Meta(description="share of calls that answer NaN where a number belongs")] = 0.0
    shorts: Annotated[Share, Meta(description="share of calls that answer with an entry too few")] = 0.0
    types: Annotated[Share, Meta(description="share of calls that answer with values of another type")] = 0.0

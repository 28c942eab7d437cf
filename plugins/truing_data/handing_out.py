"""Options of all sources that hand groups out epoch by epoch, written once."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Bootstrap = Annotated[
    int | None,
    Meta(
        description="seed of a bootstrap sample: as many groups, drawn with replacement, so that members of an "
        "ensemble differ; all groups once when not given"
    ),
]
Shuffle = Annotated[
    bool, Meta(description="a new order every epoch, which depends on the run's seed and the epoch alone")
]

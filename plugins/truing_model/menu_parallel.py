"""How a model learns in several processes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Parallel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In how many processes a model learns, and what each of them holds."""

    processes: Annotated[
        int, Meta(ge=1, description="how many learn together: as many as the launcher starts, on all machines")
    ] = 1
    kind: Annotated[
        Literal["ddp", "fsdp"],
        Meta(
            description="ddp: each process holds the whole model; fsdp: each holds its share of weights, gradients and "
            "optimizer, and layers are put together when they are needed"
        ),
    ] = "ddp"

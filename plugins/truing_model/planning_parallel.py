"""What a plan says of a model that learns in several processes: of the first one, which has the most to hold."""

from __future__ import annotations

from collections.abc import Mapping

from truing_model.menu_parallel import Parallel
from truing_model.trial import Size

_SHARED = ("weights", "reference", "optimizer", "gradients")
_DEALT = ("layers", "vocabulary", "looks", "reference", "teacher", "divergence")


def bytes_of_one(memory: Mapping[str, int], parallel: Parallel | None, size: Size) -> dict[str, int]:
    """Bytes by what they are for, in one process. What is put together at a time: the tables of words and what else
    belongs to no layer, a layer and the next, and the gradients of these."""
    if parallel is None or parallel.kind == "ddp":
        return dict(memory)
    found = {part: -(-count // parallel.processes) if part in _SHARED else count for part, count in memory.items()}
    table = min(4 * size.table, size.weights)
    of_layers = (size.weights - table) // size.layers
    gradients = size.gradients / size.weights
    return {**found, "gathered": round((1 + gradients) * (table + 2 * of_layers))}


def seconds_of_one(shares: Mapping[str, float], parallel: Parallel | None) -> dict[str, float]:
    """Seconds of a step by what they are for. Pieces are dealt out evenly; weights that are shared are moved so."""
    if parallel is None:
        return dict(shares)
    dealt = (*_DEALT, "optimizer") if parallel.kind == "fsdp" else _DEALT
    return {part: seconds / parallel.processes if part in dealt else seconds for part, seconds in shares.items()}

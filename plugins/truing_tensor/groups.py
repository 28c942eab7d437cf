"""Groups to batches, and batches cut and joined along their groups.

Everything here follows from the `dims` and `into` of the fields, so a field that a stranger's plugin defines travels too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from truing.fields import BELONGS, CHOSEN, COMPLETIONS, GROUP, IDS, PROMPTS, REJECTED, Batch, Field, Group

_COUNTED_BY = {"group": IDS, "seq": GROUP, **{dim: inside for dim, (_, inside) in BELONGS.items() if dim != "seq"}}


def batch_of(groups: Sequence[Group]) -> Batch:
    """A batch of text from groups as a source reads them; pairs only if some group has any.

    Raises ValueError when an extra field does not have one entry per entry of its dim.
    """
    starts = _starts([len(group.completions) for group in groups])
    values: dict[Field[Any], Any] = {
        IDS: [group.id for group in groups],
        PROMPTS: [group.prompt for group in groups],
        COMPLETIONS: [text for group in groups for text in group.completions],
        GROUP: torch.tensor([at for at, group in enumerate(groups) for _ in group.completions], dtype=torch.int64),
    }
    if any(group.pairs for group in groups):
        pairs = [(start + better, start + worse) for start, group in zip(starts, groups, strict=True) for better, worse in group.pairs]
        values[CHOSEN] = torch.tensor([better for better, _ in pairs], dtype=torch.int64)
        values[REJECTED] = torch.tensor([worse for _, worse in pairs], dtype=torch.int64)
    batch = Batch(values)
    for extra in {key: None for group in groups for key in group.extra}:
        found = [entry for group in groups for entry in group.extra.get(extra, [])]
        if len(found) != count(batch, extra.dims):
            raise ValueError(f"{extra} has {len(found)} entries along {extra.dims}, where there are {count(batch, extra.dims)}")
        batch = batch.put(extra, torch.tensor(found, dtype=getattr(torch, extra.dtype)) if extra.dtype else found)
    return batch


def count(batch: Batch, dims: str) -> int:
    """How many entries a batch has along a dim; 0 where it has none of them."""
    key = _COUNTED_BY[dims]
    return len(batch[key]) if key in batch else 0


def take(batch: Batch, groups: Sequence[int]) -> Batch:
    """The batch of these groups alone, in this order, with everything that lies inside them.

    Positions into other dims (`into`) are counted anew. Fields without dims stay as they are.
    """
    chosen: dict[str, Tensor] = {"group": torch.as_tensor(groups, dtype=torch.int64)}
    renumbered: dict[str, Tensor] = {"group": _inverse(chosen["group"], count(batch, "group"))}
    for dim, (outer, inside) in BELONGS.items():
        if inside in batch:
            place = renumbered[outer][batch[inside]]
            kept = torch.nonzero(place >= 0).flatten()
            chosen[dim] = kept[torch.argsort(place[kept], stable=True)]
            renumbered[dim] = _inverse(chosen[dim], len(place))
    values: dict[Field[Any], Any] = {}
    for key, value in batch.items():
        if not key.dims:
            values[key] = value
        elif isinstance(value, Tensor):
            picked = value[chosen[key.dims].to(value.device)]
            values[key] = renumbered[key.into][picked] if key.into else picked
        else:
            values[key] = [value[at] for at in chosen[key.dims].tolist()]
    return Batch(values)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the groups of several that have the same fields. Raises ValueError where the fields differ."""
    first = batches[0]
    if any(set(batch) != set(first) for batch in batches):
        raise ValueError(f"cannot join batches of different fields: {', '.join(map(repr, batches))}")
    values: dict[Field[Any], Any] = {}
    for key in first:
        parts = [batch[key] for batch in batches]
        if key.into:
            starts = _starts([count(batch, key.into) for batch in batches])
            parts = [part + start for part, start in zip(parts, starts, strict=True)]
        values[key] = torch.cat(parts) if isinstance(parts[0], Tensor) else [entry for part in parts for entry in part]
    return Batch(values)


def _starts(lengths: Sequence[int]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts[:-1]


def _inverse(chosen: Tensor, size: int) -> Tensor:
    """Where each of `size` entries went, -1 for those that were left out."""
    place = torch.full((size,), -1, dtype=torch.int64)
    place[chosen] = torch.arange(len(chosen))
    return place

"""Groups to batches, and batches cut and joined along their groups.

Everything here follows from the `dims` and `into` of the fields, so a field that a stranger's plugin defines travels
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from truing.fields import (
    BELONGS,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPTS,
    REJECTED,
    STEP_SEQ,
    STRATUM,
    Batch,
    Field,
    Group,
)
from truing.groups import COUNTED_BY


def batch_of(groups: Sequence[Group]) -> Batch:
    """A batch of text from groups as a source reads them; pairs only if some group has any.

    Positions in an extra field (`into`) are counted within its group, as those of `pairs` are. A group has as many
    steps as its STEP_SEQ has entries. Raises ValueError when some group's extra field does not have one entry per entry
    of its dim.
    """
    starts = _starts([len(group.completions) for group in groups])
    values: dict[Field[Any], Any] = {
        IDS: [group.id for group in groups],
        PROMPTS: [group.prompt for group in groups],
        COMPLETIONS: [text for group in groups for text in group.completions],
        GROUP: torch.tensor([at for at, group in enumerate(groups) for _ in group.completions], dtype=torch.int64),
    }
    if any(group.pairs for group in groups):
        pairs = [
            (start + better, start + worse)
            for start, group in zip(starts, groups, strict=True)
            for better, worse in group.pairs
        ]
        values[CHOSEN] = torch.tensor([better for better, _ in pairs], dtype=torch.int64)
        values[REJECTED] = torch.tensor([worse for _, worse in pairs], dtype=torch.int64)
    batch = Batch(values)
    for extra in {key: None for group in groups for key in group.extra}:
        found = [entry for at, group in enumerate(groups) for entry in _entries(group, extra, at, starts[at])]
        batch = batch.put(extra, torch.tensor(found, dtype=getattr(torch, extra.dtype)) if extra.dtype else found)
    return batch


def count(batch: Batch, dims: str) -> int:
    """How many entries a batch has along a dim; 0 where it has none of them."""
    key = COUNTED_BY[dims]
    return len(batch[key]) if key in batch else 0


def take(batch: Batch, groups: Sequence[int]) -> Batch:
    """The batch of these groups alone, in this order, with everything that lies inside them.

    Positions into other dims (`into`) are counted anew. Fields without dims stay as they are; within a group everything
    keeps its order. Each group may be taken once.
    """
    return _picked(batch, *_places(batch, groups))


def take_completions(batch: Batch, kept: Tensor) -> Batch:
    """The batch with some of its completions alone, `kept` [seq] says which, and with everything that lies inside them.

    All groups stay. What points into a completion that is left out is left out, too: a pair of which one is missing.
    """
    alive = {"group": torch.ones(count(batch, "group"), dtype=torch.bool), "seq": kept}
    for dim in COUNTED_BY.keys() - alive.keys():
        alive[dim] = torch.ones(count(batch, dim), dtype=torch.bool)
    for dim in BELONGS:
        for key, value in batch.items():
            if key.dims == dim != "seq" and key.into:
                alive[dim] &= alive[key.into][value]
    chosen = {dim: torch.nonzero(alive[dim]).flatten() for dim in alive}
    return _picked(batch, chosen, {dim: _inverse(chosen[dim], len(alive[dim])) for dim in alive})


def take_along(batch: Batch, dim: str, kept: Tensor) -> Batch:
    """The batch with some entries of a dim alone that nothing lies inside of or points into: pairs, or steps.
    kept [dim]: which."""
    chosen = {every: torch.arange(count(batch, every)) for every in COUNTED_BY}
    return _picked(batch, {**chosen, dim: torch.nonzero(kept).flatten()}, chosen)


def by_stratum(batch: Batch) -> dict[str, Batch]:
    """The pairs of each group of people as a batch of their own, with the completions and prompts that they compare."""
    found: dict[str, Batch] = {}
    for name in dict.fromkeys(batch[STRATUM]):
        mine = torch.tensor([stratum == name for stratum in batch[STRATUM]])
        pairs = take_along(batch, "pair", mine)
        compared = torch.zeros(count(batch, "seq"), dtype=torch.bool)
        compared[torch.cat([pairs[CHOSEN], pairs[REJECTED]])] = True
        kept = take_completions(pairs, compared)
        found[name] = take(kept, torch.unique(kept[GROUP]).tolist())
    return found


def places(batch: Batch, groups: Sequence[int]) -> Mapping[str, Tensor]:
    """Along each dim, where what `take` would take lies in the batch."""
    return _places(batch, groups)[0]


def _picked(batch: Batch, chosen: Mapping[str, Tensor], renumbered: Mapping[str, Tensor]) -> Batch:
    """The batch of the entries that are chosen along each dim, positions into other dims counted anew."""
    values: dict[Field[Any], Any] = {}
    for key, value in batch.items():
        if not key.dims:
            values[key] = value
        elif isinstance(value, Tensor):
            picked = value[chosen[key.dims].to(value.device)]
            values[key] = renumbered[key.into].to(value.device)[picked] if key.into else picked
        else:
            values[key] = [value[at] for at in chosen[key.dims].tolist()]
    return Batch(values)


def _places(batch: Batch, groups: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of each dim, which entries lie inside these groups, and where each of all entries goes; -1 for nowhere."""
    chosen: dict[str, Tensor] = {"group": torch.as_tensor(groups, dtype=torch.int64)}
    renumbered: dict[str, Tensor] = {"group": _inverse(chosen["group"], count(batch, "group"))}
    home = {"group": renumbered["group"]}  # of every entry of a dim, where its group went
    for dim, (outer, inside) in BELONGS.items():
        if inside in batch:
            home[dim] = home[outer][batch[inside].cpu()]
            kept = torch.nonzero(home[dim] >= 0).flatten()
            chosen[dim] = kept[torch.argsort(home[dim][kept], stable=True)]
            renumbered[dim] = _inverse(chosen[dim], len(home[dim]))
    return chosen, renumbered


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the groups of several that have the same fields; a field without dims must be the same in all.

    Raises ValueError where they differ, and when what a position points into cannot be counted.
    """
    first = batches[0]
    if any(set(batch) != set(first) for batch in batches):
        raise ValueError(f"cannot join batches of different fields: {', '.join(map(repr, batches))}")
    values: dict[Field[Any], Any] = {}
    for key in first:
        parts = [batch[key] for batch in batches]
        if not key.dims:
            if not all(_same(part, parts[0]) for part in parts):
                raise ValueError(f"cannot join batches that differ in {key}, which is not along any dim")
            values[key] = parts[0]
            continue
        if key.into:
            if COUNTED_BY[key.into] not in first:
                raise ValueError(
                    f"cannot join {key}: without {COUNTED_BY[key.into]} its positions cannot be counted on"
                )
            starts = _starts([count(batch, key.into) for batch in batches])
            parts = [part + start for part, start in zip(parts, starts, strict=True)]
        values[key] = torch.cat(parts) if isinstance(parts[0], Tensor) else [entry for part in parts for entry in part]
    return Batch(values)


def _entries(group: Group, extra: Field[Any], at: int, start: int) -> list[Any]:
    """What a group has of an extra field, its positions counted on from where the group begins in the batch."""
    steps = len(group.extra.get(STEP_SEQ, []))
    sizes = {"group": 1, "seq": len(group.completions), "pair": len(group.pairs), "step": steps}
    found = group.extra.get(extra, [])
    if extra.dims not in sizes or extra.into not in ("", "group", "seq"):
        raise ValueError(f"{extra} runs along {extra.dims!r} into {extra.into!r}, which text does not have yet")
    if len(found) != sizes[extra.dims]:
        what = f"{extra} of {group.id!r} has {len(found)} entries along {extra.dims}"
        raise ValueError(f"{what}, where there are {sizes[extra.dims]}")
    shift = {"": 0, "group": at, "seq": start}[extra.into]
    return [entry + shift for entry in found] if shift else found


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else bool(one == other)


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

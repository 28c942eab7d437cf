"""Some groups out of a batch, and several batches as one: what is needed when a stage fails on some groups alone.

It follows from the `dims` and `into` of the fields. `truing_tensor.groups` does the same with tensors, for batches that
are cut at every step; this is for what seldom happens, and works on lists and on tensors through their methods, since
the kernel stands without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from truing.fields import BELONGS, GROUP, IDS, Batch, Field

COUNTED_BY: Mapping[str, Field[Any]] = {
    "group": IDS,
    "seq": GROUP,
    **{dim: inside for dim, (_, inside) in BELONGS.items() if dim != "seq"},
}
"""For every dim, the field that has one entry for each of its entries wherever there are any."""


def part(batch: Batch, groups: Sequence[int]) -> Batch:
    """The batch of these groups alone, in rising order, with everything that lies inside them."""
    kept: dict[str, list[int]] = {"group": list(groups)}
    moved: dict[str, dict[int, int]] = {"group": {old: new for new, old in enumerate(groups)}}
    for dim, (outer, inside) in BELONGS.items():
        if inside in batch:
            homes = moved[outer]
            kept[dim] = [at for at, home in enumerate(plain(batch[inside])) if home in homes]
            moved[dim] = {old: new for new, old in enumerate(kept[dim])}
    values: dict[Field[Any], Any] = {}
    for key, value in batch.items():
        if key.dims:
            entries = plain(value)
            picked = [entries[at] for at in kept[key.dims]]
            value = _like(value, [moved[key.into][entry] for entry in picked] if key.into else picked)
        values[key] = value
    return Batch(values)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of the groups of several that have the same fields; what is along no dim is taken from the first.

    Raises ValueError where their fields differ.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    if any(set(batch) != set(first) for batch in batches):
        raise ValueError(f"cannot join batches of different fields: {', '.join(map(repr, batches))}")
    values: dict[Field[Any], Any] = {}
    for key, value in first.items():
        if key.dims:
            found: list[Any] = []
            start = 0
            for batch in batches:
                entries = plain(batch[key])
                found += [entry + start for entry in entries] if key.into else entries
                start += len(batch[COUNTED_BY[key.into]]) if key.into else 0
            value = _like(value, found)
        values[key] = value
    return Batch(values)


def plain(values: Any) -> list[Any]:
    """The entries of a list or a tensor."""
    return cast("list[Any]", values.tolist()) if hasattr(values, "tolist") else list(cast("Iterable[Any]", values))


def _like(value: Any, entries: list[Any]) -> Any:
    """Entries as another value of the same field is held: on its device, in its precision."""
    return value.new_tensor(entries).reshape(-1, *value.shape[1:]) if hasattr(value, "new_tensor") else entries

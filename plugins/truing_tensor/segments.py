"""Sums and means over the segments of a flat tensor: what padded code does with masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def owners(sizes: Sequence[int]) -> Tensor:
    """To which segment each entry belongs [entry], for segments of these sizes laid end to end.

    Counted without `repeat_interleave`, which starts helper threads however little there is to do: a second thread of
    a run that has some slows every small operation of the first (`truing.run.DeviceThread`).
    """
    return torch.tensor([at for at, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)


def segment_sum(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Sum of `values` [token] in each of `count` segments; `segment` [token] says which. An empty one sums to 0."""
    return values.new_zeros(count).index_add(0, segment, values)


def segment_rest(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """For each entry the sum of `values` [token] from it to the end of its segment; segments lie end to end."""
    # In float64, because two large sums are subtracted.
    exact = values.double()
    ends = segment_sum(exact, segment, count).cumsum(0)
    before = exact.cumsum(0) - exact
    return (ends[segment] - before).to(values.dtype)


def segment_logsumexp(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Log of the sum of the exponentials of `values` [token] in each of `count` segments, none of which is empty."""
    most = values.new_full((count,), float("-inf")).scatter_reduce(0, segment, values.detach(), "amax")
    return most + segment_sum((values - most[segment]).exp(), segment, count).log()


def segment_mean(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Mean of `values` [token] within each of `count` segments. An empty segment has mean 0."""
    # Counted in whole numbers: in bfloat16 256 + 1 is 256.
    sizes = segment.new_zeros(count).index_add(0, segment, segment.new_ones(len(segment)))
    return segment_sum(values, segment, count) / sizes.clamp(min=1)

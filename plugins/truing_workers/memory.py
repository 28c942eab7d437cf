"""Weights in memory that two processes see.

It is a file without a name, which goes when the last of them does, however it ends. Each copy of the weights in it is
written by the run, and read by the process once it was told of; a copy that it was told of is not written again before
it was read. A digest of its bytes goes with what is told, and the reader holds what it read against that.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from truing.errors import RunFailed
from truing.stage import Weights
from truing_tensor.columns import name_of
from truing_workers.wire import Line, Sheet

_ALIGNED = 64
_BLOCK = 1 << 16
"""bytes that are summed before they are hashed: a sum runs at the speed of memory, a hash does not"""


def nameless() -> int:
    """A file in memory that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("truing-weights")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Memory:
    """Copies of the weights of one model behind the file `number`. Raises RunFailed where there is no room for them."""

    def __init__(self, number: int, copies: int) -> None:
        self.number = number
        self._copies = copies
        self._lines: list[Line] = []
        self._size = 0
        self._bytes: Tensor | None = None

    def write(self, copy: int, weights: Weights) -> Sheet:
        """Write weights into a copy."""
        if not self._lines:
            self._lay_out(weights)
            self._reserve()
        place = self._copy(copy, self._size)
        for line, (name, value) in zip(self._lines, weights.tensors(), strict=True):
            assert (line.name, line.shape) == (name, list(value.shape)), f"{name} was not there before"
            _seen(place, line).copy_(value.detach())
        return Sheet(self._lines, self._size, _digest(place))

    def read(self, copy: int, sheet: Sheet) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a copy, as they lie there."""
        place = self._copy(copy, sheet.size)
        for line in sheet.lines:
            yield line.name, _seen(place, line)

    def verify(self, copy: int, sheet: Sheet) -> None:
        """Raises RunFailed if a copy is not what was told of."""
        if _digest(self._copy(copy, sheet.size)) != sheet.digest:
            raise RunFailed("weights in shared memory changed while they were read")

    def _lay_out(self, weights: Weights) -> None:
        at = 0
        for name, value in weights.tensors():
            self._lines.append(Line(name, name_of(value.dtype), list(value.shape), at))
            at += -(-value.nbytes // _ALIGNED) * _ALIGNED
        self._size = -(-at // _BLOCK) * _BLOCK

    def _reserve(self) -> None:
        """Have all of it at once: a page that is not there when it is written to ends a process without a word."""
        size = self._copies * self._size
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.number, 0, size)
            else:
                os.ftruncate(self.number, size)
        except OSError as error:
            what = f"no room for {self._copies} copies of the weights in shared memory, {size / 1e9:.2f} GB"
            raise RunFailed(f"{what}: {error.strerror}") from None

    def _copy(self, copy: int, size: int) -> Tensor:
        """The bytes of a copy."""
        if self._bytes is None:
            self._bytes = torch.frombuffer(mmap.mmap(self.number, self._copies * size), dtype=torch.uint8)
        return self._bytes[copy * size : (copy + 1) * size]


def _seen(place: Tensor, line: Line) -> Tensor:
    dtype: torch.dtype = getattr(torch, line.dtype)
    return place[line.at : line.at + prod(line.shape) * dtype.itemsize].view(dtype).view(line.shape)


def _digest(place: Tensor) -> str:
    sums = place.view(torch.int64).view(-1, _BLOCK // 8).sum(1)
    return hashlib.blake2b(sums.numpy().tobytes(), digest_size=16).hexdigest()

"""Weights that are on their device only while they are used.

    device   at rest                          in use
    GPU      pinned memory of the host        a copy on the GPU; what learned is copied back
    CPU      a mapped file without a name     pages of that file; they go back to the system afterwards

At rest weights can be read as ever. The same bytes are computed with; on a CPU a product may round otherwise where its
operands begin elsewhere in memory.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass as is_wrapped

from truing.errors import Problem, UserError
from truing_tensor.machine import let_go_of_freed_memory

_APART = 64
"""bytes that tensors of a file are aligned to"""


class _Place(NamedTuple):
    """Where a tensor rests. pages: of the file, on a CPU."""

    of: Tensor
    rests: Tensor
    pages: mmap.mmap | None


class Offload:
    """The weights of a network, and what an optimizer keeps of them. folder: for files, on a CPU. Raises UserError if
    they do not fit there."""

    def __init__(self, network: nn.Module, device: torch.device, folder: Path) -> None:
        self.optimizer: Optimizer | None = None
        self._network = network
        self._device = device
        self._folder = folder
        self._places: dict[int, _Place] = {}
        self._used = False
        self._rest()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """They are on the device meanwhile."""
        if self._used:
            yield
            return
        self._used = True
        if self._device.type == "cpu":
            # Or pages would come on top of what a step has freed and keeps.
            let_go_of_freed_memory()
        else:
            for value in self._tensors():
                value.data = self._brought(value.data)
        try:
            yield
        finally:
            self._used = False
            self._rest()

    def let_go(self) -> None:
        """Give pages back that somebody read at rest."""
        for pages in {id(place.pages): place.pages for place in self._places.values() if place.pages}.values():
            pages.madvise(mmap.MADV_DONTNEED)

    def _rest(self) -> None:
        tensors = self._tensors()
        new = [value for value in tensors if id(value) not in self._places]
        made = self._made(new) if new else {}
        # What is no longer there, the state of before a checkpoint was read, has no place.
        self._places = {id(value): made.get(id(value)) or self._places[id(value)] for value in tensors}
        for value, rests, _ in self._places.values():
            frozen = isinstance(value, nn.Parameter) and not value.requires_grad
            if value.data_ptr() != rests.data_ptr():
                if id(value) in made or not frozen:
                    rests.copy_(value.data)
                value.data = rests
            value.grad = None
        self.let_go()

    def _tensors(self) -> Sequence[Tensor]:
        weights = list(self._network.parameters())
        kept = self.optimizer.state if self.optimizer else {}
        slots = [part for weight in weights for slot in kept.get(weight, {}).values() for part in _parts(slot)]
        # A step's number is read by the host each time.
        return [*weights, *(slot for slot in slots if isinstance(slot, Tensor) and slot.numel() > 1)]

    def _brought(self, value: Tensor) -> Tensor:
        """A copy on the GPU."""
        return value.to(self._device, non_blocking=True)

    def _made(self, tensors: Sequence[Tensor]) -> dict[int, _Place]:
        if self._device.type == "cpu":
            return self._mapped(tensors)
        pinned = torch.cuda.is_available()
        return {
            id(value): _Place(value, torch.empty_like(value.data, device="cpu", pin_memory=pinned), None)
            for value in tensors
        }

    def _mapped(self, tensors: Sequence[Tensor]) -> dict[int, _Place]:
        """Places in one file, which is gone with this process however that ends."""
        starts: list[int] = []
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                for value in tensors:
                    starts.append(file.tell())
                    file.write(value.data.contiguous().flatten().view(torch.uint8).numpy().data)
                    file.write(bytes(-file.tell() % _APART))
                file.flush()
                pages = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            what = f"{sum(value.nbytes for value in tensors):,} bytes do not go into {self._folder}: {error}"
            raise UserError(Problem("offload", what, "make room there, or take offload out")) from None
        return {
            id(value): _Place(value, _at(pages, at, value), pages) for value, at in zip(tensors, starts, strict=True)
        }


def _parts(slot: Tensor) -> Sequence[Tensor]:
    """The tensors that one is made of: of eight bits, codes and scales."""
    return [getattr(slot, name) for name in slot.__tensor_flatten__()[0]] if is_wrapped(slot) else [slot]


def _at(pages: mmap.mmap, start: int, like: Tensor) -> Tensor:
    return torch.frombuffer(pages, dtype=like.dtype, count=like.numel(), offset=start).view(like.shape)


@contextmanager
def in_use(several: Sequence[Offload]) -> Iterator[None]:
    """All of them are on their devices meanwhile."""
    with ExitStack() as stack:
        for each in several:
            stack.enter_context(each.in_use())
        yield


def let_go(several: Sequence[Offload]) -> None:
    """Give pages back that somebody read at rest."""
    for each in several:
        each.let_go()

"""What this machine is good at: measured, not assumed."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from truing.errors import Problem, UserError

_NARROW = 128
"""below this width of its hidden states a model gains nothing from bfloat16 and loses digits: casting takes the time
that products save"""


def device_for(wanted: str) -> torch.device:
    """Where a model runs. wanted: "cpu", or else an accelerator, if there is one: of several, that of this process.
    Raises UserError if there is none and "cuda" is wanted."""
    found = None if wanted == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        if wanted == "cuda":
            raise UserError(Problem("device", "there is no GPU here that torch can use", 'set device = "auto"'))
        return torch.device("cpu")
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0"))) if found.type == "cuda" else found


def computes_in_bf16(wanted: str, device: str, width: int) -> bool:
    """Whether a model computes in bfloat16. wanted: "bf16", "fp32", or "auto": where it is faster, for a model whose
    hidden states are as wide as `width`."""
    return wanted == "bf16" or (wanted == "auto" and width >= _NARROW and _bf16_is_faster(device))


@cache
def _bf16_is_faster(device: str) -> bool:
    """Whether matrix products in bfloat16 are clearly faster than in fp32 on this device."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Whoever asks may be about to make a model without memory, on the device "meta".
    left, right = torch.randn(256, 1024, device=device), torch.randn(1024, 1024, device=device)
    return 1.2 * _seconds(left.bfloat16(), right.bfloat16()) < _seconds(left, right)


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """The fastest of a few products: noise only ever adds time."""
    times: list[float] = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times)


@cache
def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks: a training step frees and asks for the same hundreds of megabytes again, and
    fetching them from the kernel each time costs a quarter of a step on a CPU."""
    _tune_heap(trim=2**31 - 1, apart=2**31 - 1)


def let_go_of_freed_memory() -> None:
    """Give what is free in the heap now back to the system. Loading a model frees as much as the model takes, in blocks
    that a step would use in part, and keep besides what it asks for itself."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class Tidy:
    """Keeps what is free in the heap within bounds, where it is kept. What a step asks for fits into what another freed
    only where that was as large; where rows are longer it comes on top, again and again."""

    def __init__(self) -> None:
        self._least = self._takes = 0

    def up(self) -> None:
        """Between two steps: give freed memory back if much more of it is held than a step takes."""
        more = resident() - self._least
        self._takes = self._takes or max(more, _LITTLE)
        if not self._least or more > HELD * self._takes:
            let_go_of_freed_memory()
            self._least, self._takes = resident(), 0


def resident() -> int:
    """Bytes of this process that are in memory; where the system does not say, the most that ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def give_freed_memory_back() -> None:
    """Have glibc give large freed blocks back at once. Weights that are put together a layer at a time leave holes in a
    heap, and these would be as large as what sharing the weights saves."""
    _tune_heap(trim=2**17, apart=2**18)


@contextmanager
def apart_from_the_heap() -> Iterator[None]:
    """What is asked for meanwhile and is large lies apart from the heap. What stays for good would lie in what a step
    freed, and leave the next one no room there."""
    # Once it is set glibc no longer finds by itself from where on blocks had better lie apart: not where nobody set it.
    for _ in _APART[-1:]:
        _tune({_MMAP_THRESHOLD: 2**17})
    try:
        yield
    finally:
        for before in _APART[-1:]:
            _tune({_MMAP_THRESHOLD: before})


def _tune_heap(trim: int, apart: int) -> None:
    """Set how many free bytes at its end a heap keeps, and from how many on a block lies apart from it."""
    _tune({_MMAP_THRESHOLD: apart, _TRIM_THRESHOLD: trim})
    _APART.append(apart)


def _tune(values: Mapping[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        for parameter, value in values.items():
            ctypes.CDLL(None).mallopt(parameter, value)


HELD = 1.25
"""how much of what was freed is held for the next steps, by what a step takes that has to fetch it all"""
_LITTLE = 2**26
"""bytes that are not worth the time it takes to look for them"""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_APART: list[int] = []
"""from how many bytes on a block lies apart, as it was set one time after another"""

"""What this machine is good at: measured, not assumed."""

from __future__ import annotations

import ctypes
import platform
import time
from functools import cache

import torch


@cache
def bf16_is_faster(device: str) -> bool:
    """Whether matrix products in bfloat16 are clearly faster than in fp32 on this device."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    left, right = torch.randn(256, 1024), torch.randn(1024, 1024)
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
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3
    for parameter in (mmap_threshold, trim_threshold):
        ctypes.CDLL(None).mallopt(parameter, 2**31 - 1)

"""Matrix products in fp32 on a CPU, by the faster of the two libraries that torch brings.

torch asks MKL, and MKL takes a processor that is not Intel's for one without AVX-512: half of its width is idle. oneDNN
uses all of it. But oneDNN compiles a kernel for each shape it meets, which takes as long as some ten products, so it
is asked only where rows come in whole multiples of some number, and a pass fills its rows up to one (`filled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from truing_tensor.fused import swiglu
from truing_tensor.machine import apart_from_the_heap

ROWS = 128
"""of what number rows that oneDNN is asked for are a multiple: larger, more is computed in vain; smaller, more kernels
are compiled, each of which takes memory, and they are slower"""
WIDE = 2**20
"""how many numbers a matrix has, a vocabulary's above all, whose products take so long that few rows in vain are worth
the kernels of more shapes"""


def rows_for(numbers: int) -> int:
    """Of what number rows are a multiple when oneDNN is asked for their products with a matrix of so many numbers."""
    return ROWS // 4 if numbers >= WIDE else ROWS


def filled(values: Tensor, rows: int | None = None) -> Tensor:
    """Values [row, ...] followed by zeros up to whole multiples of `rows`, or of ROWS, where that makes their products
    faster: not where most of what is computed would be in vain."""
    more = filled_up(len(values), rows) - len(values)
    return values if not more or values.is_cuda else pad(values, [0] * (2 * values.ndim - 1) + [more])


def filled_up(count: int, rows: int | None = None) -> int:
    """How many rows so many are once they are `filled`."""
    rows = rows or ROWS
    return count + -count % rows if count >= 2 * rows and by_onednn() else count


def product(left: Tensor, right: Tensor) -> Tensor:
    """left [row, inner] @ right [inner, column]."""
    return _by_onednn(left, right) if _suits(left, rows_for(right.numel())) else left @ right


def product_over(left: Tensor, right: Tensor, turned: Tensor | None = None) -> Tensor:
    """left [row, x]' @ right [row, y], in whichever layout comes of it. turned: right' where somebody has made it."""
    if not _suits(right, rows_for(left.shape[1] * right.shape[1])):
        return left.T @ right
    # What stands on its side is copied first, so let that be the narrower one.
    if left.shape[1] > right.shape[1] or (turned is not None and left.shape[1] == right.shape[1]):
        return _by_onednn(right.T if turned is None else turned, left).T
    return _by_onednn(left.T, right)


class Linear(nn.Linear):
    """torch's, with its products by the faster library."""

    def forward(self, input: Tensor) -> Tensor:
        """input [row, inner], or with more dims in front."""
        flat = input.flatten(0, -2)
        if not _suits(flat, rows_for(self.weight.numel())) or torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        found = _Products.apply(flat, self.weight)[0] if torch.is_grad_enabled() else product(flat, self.weight.T)
        found = found.unflatten(0, input.shape[:-1])
        return found if self.bias is None else found + self.bias


def each(linears: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of these linear layers gives of x [row, inner]."""
    alone = all(type(linear) is Linear and linear.bias is None for linear in linears) and torch.is_grad_enabled()
    if not alone or not _suits(x, ROWS) or torch.is_autocast_enabled(x.device.type):
        return [linear(x) for linear in linears]
    return list(_Products.apply(x, *(linear.weight for linear in linears)))


def down(linear: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
    """linear(silu(gate) * up), of gate and up [row, inner]. What goes into the linear layer is not kept for the
    backward pass, which makes it again on its way."""
    alone = type(linear) is Linear and linear.bias is None and torch.is_grad_enabled()
    if not alone or not _suits(gate, rows_for(linear.weight.numel())) or torch.is_autocast_enabled(gate.device.type):
        return linear(swiglu(gate, up))
    found: Tensor = _Down.apply(gate, up, linear.weight)
    return found


def speed_up(model: nn.Module) -> None:
    """Let the linear layers of a model multiply by the faster library. They stay the modules they are."""
    for module in model.modules():
        if type(module) is nn.Linear and by_onednn():
            module.__class__ = Linear


@cache
def by_onednn() -> bool:
    """Whether oneDNN is the faster one here. Known and not timed: a run that is replayed multiplies alike."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    described = Path("/proc/cpuinfo")
    strange = described.exists() and "GenuineIntel" not in described.read_text(encoding="utf-8")
    return strange and torch.backends.cpu.get_cpu_capability() == "AVX512"


class _Products(torch.autograd.Function):
    """y = x w' for each of some w; dx = sum of dy w, dw = dy' x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(product(x, weight.T) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        of_each = [gradient.contiguous() for gradient in gradients]
        to_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for of_y, weight in zip(of_each, weights, strict=True):
                part = product(of_y, weight)
                to_x = part if to_x is None else to_x.add_(part)
        asked = ctx.needs_input_grad[1:]
        # On its side for all of them at once.
        turned = x.T.contiguous() if sum(asked) > 1 else None
        to_weights = (
            product_over(of_y, x, turned).contiguous() if asks else None
            for of_y, asks in zip(of_each, asked, strict=True)
        )
        return to_x, *to_weights


class _Down(torch.autograd.Function):
    """y = (silu(gate) * up) w'."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return product(silu(gate).mul_(up), weight.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        of_y = gradients[0].contiguous()
        of_inner, passed = product(of_y, weight), silu(gate)
        to_weight = product_over(of_y, passed * up).contiguous() if ctx.needs_input_grad[2] else None
        to_up = passed.mul_(of_inner)
        return torch.ops.aten.silu_backward(of_inner.mul_(up), gate), to_up, to_weight


def _suits(values: Tensor, rows: int) -> bool:
    """Whether values [row, ...] are for oneDNN, which is asked for whole multiples of `rows`."""
    whole = len(values) > 0 and len(values) % rows == 0
    return whole and values.dtype == torch.float32 and values.device.type == "cpu" and by_onednn()


def _by_onednn(left: Tensor, right: Tensor) -> Tensor:
    shape = (left.shape, left.stride(), right.shape, right.stride(), torch.get_num_threads())
    if shape not in _MET:
        # What is compiled stays for good; what this gives would not, and is asked again.
        with apart_from_the_heap():
            _linear(left, right)
        _MET.add(shape)
    return _linear(left, right)


def _linear(left: Tensor, right: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
    return found


_MET: set[tuple[object, ...]] = set()
"""shapes for which kernels have been compiled"""

"""The small steps between a transformer's matrix products, each with its backward pass written out.

Composed of single operations these read and write their tensors a dozen times; on a CPU that is a fifth of a training
step. Here each is two or three passes, and keeps no more than it needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu


class RmsNorm(torch.autograd.Function):
    """y = x / rms(x) * w, rms(x) = sqrt(mean(x^2) + epsilon) (arXiv:1910.07467, eq. 4), in fp32 at least.

    With r = 1 / rms(x) and n = width:   dx = r (dy w) - x r^3 / n sum(dy w x)      dw = sum over rows of dy x r
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """x [row, width], weight [width]; y in the type of x."""
        y, inverse = _normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and, if it learns, of weight."""
        x, weight, inverse = ctx.saved_tensors
        of_y, exact = gradients[0].to(inverse.dtype), x.to(exact_type(x))
        scale = weight.to(inverse.dtype)
        products = of_y * exact
        along = (products @ scale).mul_(inverse.pow(3)).div_(-x.shape[1])
        to_x = (of_y * scale).mul_(inverse[:, None]).addcmul_(exact, along[:, None])
        to_weight = (inverse @ products).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return to_x.to(x.dtype), to_weight, None


class Rotate(torch.autograd.Function):
    """Rotary positions (arXiv:2104.09864) in the layout of halves: (a, b) to (a cos - b sin, b cos + a sin)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [row, head, size]; cos and sin [row, 1, size / 2]."""
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The rotation back."""
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, -sin), None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up (arXiv:2002.05202, eq. 5 without the matrix products)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """gate and up [row, width]."""
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of gate and up."""
        gate, up = ctx.saved_tensors
        of_out = gradients[0]
        to_up = silu(gate).mul_(of_out)
        to_gate = torch.ops.aten.silu_backward(of_out * up, gate)
        return to_gate, to_up


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RmsNorm; where no gradients are asked for, without what those need."""
    return RmsNorm.apply(x, weight, epsilon) if torch.is_grad_enabled() else _normed(x, weight, epsilon)[0]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate; where no gradients are asked for, without what those need."""
    return Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _rotated(x, cos, sin)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SwiGlu; where no gradients are asked for, without what those need."""
    return SwiGlu.apply(gate, up) if torch.is_grad_enabled() else _gated(gate, up)


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    exact = x.to(exact_type(x))
    inverse = torch.linalg.vector_norm(exact, dim=1).square_().div_(x.shape[1]).add_(epsilon).rsqrt_()
    return (exact * inverse[:, None]).mul_(weight).to(x.dtype), inverse


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate).mul_(up)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[2] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def exact_type(x: Tensor) -> torch.dtype:
    """The type in which sums are made: fp32 at least."""
    return torch.promote_types(x.dtype, torch.float32)

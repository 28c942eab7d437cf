"""The steps between matrix products: their values against the usual operations, their gradients by differences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from truing_tensor.fused import RmsNorm, Rotate, SwiGlu


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_rms_norm_is_that_of_torch_and_its_gradient_that_of_differences() -> None:
    x, weight = some(5, 8), some(8, seed=1)
    torch.testing.assert_close(RmsNorm.apply(x, weight, 1e-5), rms_norm(x, (8,), weight, 1e-5))
    assert torch.autograd.gradcheck(lambda a, b: RmsNorm.apply(a, b, 1e-5), (x, weight))


def test_rms_norm_of_a_frozen_weight_makes_no_gradient_for_it() -> None:
    x, weight = some(5, 8), some(8, seed=1).detach()
    RmsNorm.apply(x, weight, 1e-5).sum().backward()
    assert weight.grad is None
    assert x.grad is not None


def test_rms_norm_in_bf16_is_computed_in_fp32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.bfloat16)
    torch.testing.assert_close(RmsNorm.apply(x, torch.ones(4), 1e-6), torch.ones(1, 4, dtype=torch.bfloat16))


def test_rotation_turns_the_halves_of_a_head_and_its_gradient_turns_them_back() -> None:
    x = some(3, 2, 8)
    angle = some(3, 1, 4, seed=2).detach()
    turned = Rotate.apply(x, angle.cos(), angle.sin())
    as_complex = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(turned, torch.cat([as_complex.real, as_complex.imag], -1))
    torch.testing.assert_close(Rotate.apply(turned, angle.cos(), -angle.sin()), x)
    assert torch.autograd.gradcheck(lambda a: Rotate.apply(a, angle.cos(), angle.sin()), (x,))


def test_swiglu_is_silu_of_the_gate_times_up() -> None:
    gate, up = some(4, 6), some(4, 6, seed=3)
    torch.testing.assert_close(SwiGlu.apply(gate, up), silu(gate) * up)
    assert torch.autograd.gradcheck(SwiGlu.apply, (gate, up))

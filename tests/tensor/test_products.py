"""Products by oneDNN are those of torch, and rows that are filled up change nothing that anybody reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from truing_tensor import products
from truing_tensor.products import ROWS, Linear, down, filled, product, product_over, speed_up

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def as_if_it_were_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "by_onednn", lambda: True)
    torch.manual_seed(0)


@pytest.mark.parametrize("rows", [ROWS, 2 * ROWS, ROWS + 1])
@pytest.mark.parametrize(("inner", "columns"), [(48, 80), (80, 48)])
def test_products_over_rows_and_along_them_are_those_of_torch(rows: int, inner: int, columns: int) -> None:
    x, weight, of_y = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(rows, columns)
    torch.testing.assert_close(product(x, weight.T), x @ weight.T, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product(of_y, weight), of_y @ weight, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product_over(of_y, x), of_y.T @ x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2 * ROWS, 48), (1, ROWS, 48), (7, 48), (ROWS, 48)])
def test_a_linear_layer_gives_what_it_gave_and_its_gradients(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Sequential(nn.Linear(48, 80, bias=bias))
    results: list[list[torch.Tensor]] = []
    x = torch.randn(shape, requires_grad=True)
    for _ in range(2):
        y = layer(x)
        results.append([y.detach(), *torch.autograd.grad((y * y).sum(), [x, *layer.parameters()])])
        speed_up(layer)
    assert type(layer[0]) is Linear
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-3)
        assert after.is_contiguous()


def test_the_way_down_gives_what_its_parts_give_and_their_gradients() -> None:
    layer = nn.Sequential(nn.Linear(48, 32, bias=False))
    results: list[list[torch.Tensor]] = []
    gate, up = torch.randn(ROWS, 48, requires_grad=True), torch.randn(ROWS, 48, requires_grad=True)
    for _ in range(2):
        y = down(layer[0], gate, up)
        results.append([y.detach(), *torch.autograd.grad((y * y).sum(), [gate, up, layer[0].weight])])
        speed_up(layer)
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-4)


def test_a_frozen_layer_gets_no_gradient_and_passes_one_on() -> None:
    layer = nn.Sequential(nn.Linear(48, 48)).requires_grad_(False)
    speed_up(layer)
    x = torch.randn(ROWS, 48, requires_grad=True)
    layer(x).sum().backward()
    assert layer[0].weight.grad is None
    torch.testing.assert_close(x.grad, layer[0].weight.sum(0).expand(ROWS, -1), rtol=1e-5, atol=1e-5)


def test_a_layer_under_autocast_and_one_in_float64_are_left_to_torch() -> None:
    layer = nn.Sequential(nn.Linear(48, 48))
    speed_up(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(ROWS, 48)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(ROWS, 48).double()).dtype == torch.float64


def test_rows_are_filled_up_with_zeros_where_most_of_them_are_not_in_vain() -> None:
    assert len(filled(torch.ones(2 * ROWS, 3))) == 2 * ROWS
    assert len(filled(torch.ones(2 * ROWS - 1, 3))) == 2 * ROWS - 1
    more = filled(torch.ones(2 * ROWS + 1, 3))
    assert more.shape == (3 * ROWS, 3)
    assert more.sum() == (2 * ROWS + 1) * 3


def test_nothing_is_filled_up_on_a_machine_where_one_dnn_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "by_onednn", lambda: False)
    layer = nn.Sequential(nn.Linear(48, 48))
    speed_up(layer)
    assert type(layer[0]) is nn.Linear
    assert len(filled(torch.ones(2 * ROWS + 1))) == 2 * ROWS + 1

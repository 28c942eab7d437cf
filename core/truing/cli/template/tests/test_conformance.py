"""The plugin keeps the promises that truing relies on."""

from __future__ import annotations

from truing_newcomer.plugin import Newcomer

from truing.testing import check_imports, check_spec
from truing_tensor.testing import check_loss


def test_the_menu_imports_nothing_heavy() -> None:
    check_imports("truing_newcomer.plugin")


def test_the_spec_is_complete_and_fits_its_function() -> None:
    check_spec(Newcomer)


def test_the_loss_is_a_sum_with_a_true_gradient() -> None:
    check_loss(Newcomer())
    check_loss(Newcomer(margin=10.0))

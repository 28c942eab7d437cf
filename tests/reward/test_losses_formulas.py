"""Every loss on scores, and its gradient, is its paper's formula to ten digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from truing.stage import LossSpec
from truing.testing import check_spec
from truing_reward.menu_losses import LOSSES, BradleyTerry, BradleyTerryTies, OutcomeBce, PlackettLuceReward
from truing_tensor.testing import check_loss

from . import papers
from .papers import Data
from .worlds import labelled_data, loss_and_gradient, pair_data, ranked_data

EXAMPLES = settings(deadline=None, max_examples=60, database=None)
PER = st.sampled_from(("pair", "group"))
WEIGHT = st.sampled_from((0.0, 0.01, 0.7))


def agree(spec: LossSpec, paper: Callable[..., complex], data: Data, **options: Any) -> None:
    """The loss is the paper's with these options, and so is its gradient."""

    def of(some: Data) -> complex:
        return paper(some, **options)

    found, slope = loss_and_gradient(spec, data)
    assert found == pytest.approx(complex(of(data)).real, rel=1e-10, abs=1e-10)
    assert slope == pytest.approx(papers.gradient(of, data), rel=1e-10, abs=1e-10)


@given(pair_data(), st.floats(0, 0.49), st.booleans(), st.booleans(), WEIGHT, PER)
@EXAMPLES
def test_bradley_terry(data: Data, smoothing: float, soft: bool, margin: bool, center: float, per: Any) -> None:
    options: Mapping[str, Any] = {"soft": soft, "margin": margin, "center": center, "per": per}
    agree(
        BradleyTerry(label_smoothing=smoothing, **options),
        papers.bradley_terry,
        data,
        label_smoothing=smoothing,
        **options,
    )


@given(pair_data(), st.floats(0.05, 5), st.sampled_from((0.0, 0.1)), WEIGHT, PER)
@EXAMPLES
def test_bradley_terry_with_ties(data: Data, ease: float, within: float, center: float, per: Any) -> None:
    options: Mapping[str, Any] = {"center": center, "per": per}
    agree(
        BradleyTerryTies(model="davidson", nu=ease, tied_within=within, **options),
        papers.davidson,
        data,
        nu=ease,
        within=within,
        **options,
    )
    agree(
        BradleyTerryTies(model="rao-kupper", nu=1 + ease, tied_within=within, **options),
        papers.rao_kupper,
        data,
        nu=1 + ease,
        within=within,
        **options,
    )


@given(pair_data())
@EXAMPLES
def test_unless_told_otherwise_half_of_all_pairs_of_equals_are_tied(data: Data) -> None:
    agree(BradleyTerryTies(), papers.rao_kupper, data, nu=3.0)
    agree(BradleyTerryTies(model="davidson"), papers.davidson, data, nu=1.0)


@given(ranked_data(), st.integers(0, 4), st.sampled_from(("uncompared", "breslow")), WEIGHT)
@EXAMPLES
def test_plackett_luce(data: Data, top: int, ties: Any, center: float) -> None:
    options: Mapping[str, Any] = {"top": top, "ties": ties, "center": center}
    agree(PlackettLuceReward(**options), papers.plackett_luce, data, **options)


@given(labelled_data(), st.floats(0, 3), st.floats(0.1, 3))
@EXAMPLES
def test_outcome_bce(data: Data, desirable: float, undesirable: float) -> None:
    options: Mapping[str, Any] = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    agree(OutcomeBce(**options), papers.outcome_bce, data, **options)


@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_a_loss_keeps_its_promises(spec: Any) -> None:
    check_spec(spec)
    check_loss(spec())


@pytest.mark.parametrize(
    "spec",
    [
        BradleyTerry(label_smoothing=0.1, soft=True, margin=True, center=0.01, per="group"),
        BradleyTerryTies(model="davidson", tied_within=0.1, center=0.01, per="group"),
        PlackettLuceReward(top=1, ties="breslow", center=0.01),
        OutcomeBce(desirable_weight=2.0),
    ],
    ids=lambda spec: spec.name,
)
def test_a_loss_keeps_its_promises_with_every_option(spec: LossSpec) -> None:
    check_loss(spec)


@pytest.mark.parametrize(
    ("spec", "option"),
    [
        (BradleyTerryTies(nu=1.0), "nu"),
        (BradleyTerryTies(model="davidson", nu=0.0), "nu"),
        (OutcomeBce(desirable_weight=0.0, undesirable_weight=0.0), "desirable_weight"),
    ],
)
def test_options_under_which_nothing_can_be_learned_are_refused(spec: LossSpec, option: str) -> None:
    [fault] = spec.problems()
    assert fault.option == option
    assert fault.mend

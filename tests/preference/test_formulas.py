"""Every loss, and its gradient, is its paper's formula to ten digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from truing.fields import LOGPROBS_REF
from truing.stage import LossSpec
from truing_preference.menu_others import Bco, Kto, PlackettLuce
from truing_preference.menu_pairs import (
    Aot,
    Apo,
    BetaDpo,
    Cpo,
    Dpo,
    Dpop,
    DpoTies,
    Exo,
    FDpo,
    HingeNorm,
    Ipo,
    Nca,
    Orpo,
    RDpo,
    SimPo,
    Slic,
    Wpo,
)
from truing_preference.plugin import truing_specs
from truing_tensor.testing import check_loss

from . import papers
from .conftest import labelled_data, loss_and_gradient, metrics, pair_data, ranked_data, scattered_pairs
from .papers import Data

Paper = Callable[[Data], complex]

PAIRS: dict[str, tuple[LossSpec, Paper]] = {
    "dpo": (Dpo(beta=0.3), lambda d: papers.dpo(d, 0.3)),
    "dpo, conservative": (Dpo(beta=0.3, label_smoothing=0.1), lambda d: papers.conservative_dpo(d, 0.3, 0.1)),
    "dpo, robust": (Dpo(beta=0.3, label_smoothing=0.2, robust=True), lambda d: papers.robust_dpo(d, 0.3, 0.2)),
    "dpo, per token": (Dpo(beta=2.0, per_token=True), lambda d: papers.normalised_dpo(d, 2.0)),
    "dpo, soft": (Dpo(beta=0.3, soft=True), lambda d: papers.soft_dpo(d, 0.3)),
    "dpo, soft and conservative": (
        Dpo(beta=0.3, soft=True, label_smoothing=0.1),
        lambda d: papers.soft_dpo(d, 0.3, 0.1),
    ),
    "dpo, soft and margin": (Dpo(beta=0.3, soft=True, margin_weight=0.7), lambda d: papers.soft_dpo(d, 0.3, 0.0, 0.7)),
    "dpo, soft and sft": (
        Dpo(beta=0.3, soft=True, sft_weight=0.4),
        lambda d: papers.soft_dpo(d, 0.3) + 0.4 * papers.nll(papers.winners_first(d)),
    ),
    "dpo, margin": (Dpo(beta=0.3, margin_weight=0.7), lambda d: papers.offset_dpo(d, 0.3, 0.7)),
    "dpo, sft": (Dpo(beta=0.3, sft_weight=0.4), lambda d: papers.dpo(d, 0.3) + 0.4 * papers.nll(d)),
    "dpo-ties, rao-kupper": (DpoTies(beta=0.3), lambda d: papers.rao_kupper(d, 0.3, 3.0)),
    "dpo-ties, nu": (DpoTies(beta=0.3, nu=1.5), lambda d: papers.rao_kupper(d, 0.3, 1.5)),
    "dpo-ties, davidson": (DpoTies(beta=0.3, model="davidson"), lambda d: papers.davidson(d, 0.3, 1.0)),
    "dpo-ties, sft": (
        DpoTies(beta=0.3, sft_weight=0.4),
        lambda d: papers.rao_kupper(d, 0.3, 3.0) + 0.4 * papers.nll(papers.winners_first(d)),
    ),
    "ipo": (Ipo(beta=0.4), lambda d: papers.ipo(d, 0.4)),
    "ipo, per token": (Ipo(beta=0.4, per_token=True), lambda d: papers.normalised_ipo(d, 0.4)),
    "ipo, soft": (Ipo(beta=0.4, soft=True), lambda d: papers.soft_ipo(d, 0.4)),
    "hinge-norm": (HingeNorm(beta=0.3), lambda d: papers.hinge(d, 0.3)),
    "hinge-norm, margin": (HingeNorm(beta=0.3, margin_weight=0.7), lambda d: papers.offset_hinge(d, 0.3, 0.7)),
    "r-dpo": (RDpo(beta=0.3, alpha=0.2), lambda d: papers.r_dpo(d, 0.3, 0.2)),
    "dpop": (Dpop(beta=0.3, penalty=5.0), lambda d: papers.dpop(d, 0.3, 5.0)),
    "wpo": (Wpo(beta=0.3), lambda d: papers.wpo(d, 0.3)),
    "exo": (Exo(beta=0.3, label_smoothing=0.01), lambda d: papers.exo(d, 0.3, [1.0] * len(d.pairs), 0.01)),
    "exo, soft": (Exo(beta=0.3, label_smoothing=0.01, soft=True), lambda d: papers.exo(d, 0.3, d.soft, 0.01)),
    "nca": (Nca(beta=0.3), lambda d: papers.nca(d, 0.3)),
    "apo, zero": (Apo(beta=0.3), lambda d: papers.apo_zero(d, 0.3)),
    "apo, down": (Apo(beta=0.3, variant="down"), lambda d: papers.apo_down(d, 0.3)),
    "f-dpo, reverse-kl": (FDpo(beta=0.3, divergence="reverse-kl"), lambda d: papers.f_dpo(d, 0.3, papers.reverse_kl)),
    "f-dpo, forward-kl": (FDpo(beta=0.01, divergence="forward-kl"), lambda d: papers.f_dpo(d, 0.01, papers.forward_kl)),
    "f-dpo, js": (FDpo(beta=0.3), lambda d: papers.f_dpo(d, 0.3, papers.js)),
    "f-dpo, alpha": (
        FDpo(beta=0.1, divergence="alpha", alpha=0.3),
        lambda d: papers.f_dpo(d, 0.1, papers.alpha_divergence(0.3)),
    ),
    "aot": (Aot(beta=0.3, label_smoothing=0.1), lambda d: papers.aot(d, 0.3, 0.1)),
    "aot, unpaired": (Aot(beta=0.3, unpaired=True), lambda d: papers.aot_unpaired(d, 0.3)),
    "beta-dpo": (BetaDpo(beta=0.3), lambda d: papers.beta_dpo(d, 0.3, 0.6, 0.8)),
    "simpo": (SimPo(beta=2.5, gamma=0.8), lambda d: papers.simpo(d, 2.5, 0.8)),
    "simpo, soft and smoothed": (
        SimPo(beta=2.5, gamma=0.8, soft=True, label_smoothing=0.1),
        lambda d: papers.soft_simpo(papers.winners_first(d), 2.5, 0.8, 0.1),
    ),
    "cpo, soft and smoothed": (
        Cpo(beta=0.3, sft_weight=0.0, soft=True, label_smoothing=0.1),
        lambda d: papers.soft_cpo(d, 0.3, 0.1),
    ),
    "cpo": (Cpo(beta=0.3), lambda d: papers.cpo(d, 0.3) + papers.nll(d)),
    "orpo": (Orpo(odds_weight=0.2), lambda d: papers.nll(d) + 0.2 * papers.orpo(d)),
    "slic": (Slic(delta=1.5, sft_weight=0.5), lambda d: papers.slic(d, 1.5) + 0.5 * papers.nll(d)),
}
LABELLED: dict[str, tuple[LossSpec, Paper]] = {
    "kto": (Kto(beta=0.3), lambda d: papers.kto(d, 0.3, 1.0, 1.0)),
    "kto, weighted": (
        Kto(beta=0.3, desirable_weight=1.3, undesirable_weight=0.7),
        lambda d: papers.kto(d, 0.3, 1.3, 0.7),
    ),
    "bco": (Bco(beta=0.3), lambda d: papers.bco(d, 0.3)),
}
EXAMPLES = settings(deadline=None, max_examples=25, database=None)


def is_the_papers(spec: LossSpec, paper: Paper, data: Data) -> None:
    value, slope = loss_and_gradient(spec, data)
    written = paper(data)
    assert value == pytest.approx(written.real, rel=1e-10, abs=1e-10)
    assert slope == pytest.approx(papers.gradient(paper, data), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", [name for name, (spec, _) in PAIRS.items() if not spec.whole_step])
@given(data=pair_data())
@EXAMPLES
def test_a_loss_on_pairs_and_its_gradient_are_the_papers(name: str, data: Data) -> None:
    is_the_papers(*PAIRS[name], data)


@pytest.mark.parametrize("name", [name for name, (spec, _) in PAIRS.items() if spec.whole_step])
@given(data=scattered_pairs())
@EXAMPLES
def test_a_loss_that_sorts_the_pairs_of_a_step_and_its_gradient_are_the_papers(name: str, data: Data) -> None:
    is_the_papers(*PAIRS[name], data)


@pytest.mark.parametrize("name", LABELLED)
@given(data=labelled_data())
@EXAMPLES
def test_a_loss_on_labels_and_its_gradient_are_the_papers(name: str, data: Data) -> None:
    is_the_papers(*LABELLED[name], data)


@given(data=ranked_data(), beta=st.floats(0.05, 1.0))
@EXAMPLES
def test_plackett_luce_and_its_gradient_are_the_papers(data: Data, beta: float) -> None:
    is_the_papers(PlackettLuce(beta=beta), lambda d: papers.plackett_luce(d, beta), data)


def test_every_offline_loss_on_the_menu_is_held_against_its_paper() -> None:
    held = {type(spec) for spec, _ in (PAIRS | LABELLED).values()} | {PlackettLuce}
    assert held == set(LOSSES)


LOSSES = [spec for spec in truing_specs() if issubclass(spec, LossSpec) and not spec.__module__.endswith("menu_online")]
"""Those that learn from data that is there. What learns from what it samples is held in test_online."""
STOPPED = {"wpo", "beta-dpo", "kto", "bco"}
"""They hold something constant that depends on the policy, so finite differences see another gradient."""


@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_a_loss_does_its_arithmetic_right_however_a_batch_is_cut(spec: type[LossSpec]) -> None:
    check_loss(spec(), differences=spec.name not in STOPPED, additive=not spec.whole_step)


def test_only_losses_that_compare_pairs_or_labels_with_each_other_ask_for_a_whole_step() -> None:
    assert {spec.name for spec in LOSSES if spec.whole_step} == {"aot", "beta-dpo", "kto", "bco"}


def test_only_four_losses_load_no_reference() -> None:
    free = {spec.name for spec in LOSSES if LOGPROBS_REF not in spec().requires()}
    assert free == {"simpo", "orpo", "cpo", "slic"}


PAIR = Data(
    policy=[[-1.0, -2.0], [-4.0]],
    reference=[[-2.0, -2.0], [-3.0]],
    squares=[[0.5, 0.25], [0.125]],
    pairs=[(0, 1)],
    soft=[1.0],
    margin=[0.0],
)
REPORTED = {
    "accuracy": 1.0,
    "margin": 1.0,
    "reward/chosen": 0.5,
    "reward/rejected": -0.5,
    "logprob/chosen": -3.0,
    "logprob/rejected": -4.0,
    "length/difference": 1.0,
    "length/correlation": 1.0,
    "kl": 0.5,
}


@pytest.mark.parametrize("spec", [Dpo, Ipo, HingeNorm, RDpo, Dpop, Exo, Nca, Apo, Aot, DpoTies], ids=lambda s: s.name)
def test_losses_with_a_reference_report_the_same_of_a_pair(spec: type[Dpo]) -> None:
    assert metrics(spec(beta=0.5), PAIR) == pytest.approx(REPORTED)


def test_beta_dpo_reports_its_beta_too() -> None:
    assert metrics(BetaDpo(beta=0.5), PAIR) == pytest.approx({**REPORTED, "beta": 0.5})


@pytest.mark.parametrize("model", ["rao-kupper", "davidson"])
def test_of_a_verdict_the_winner_is_reported_as_chosen_and_a_tie_is_half_right(model: str) -> None:
    swapped = replace(PAIR, pairs=[(1, 0)], soft=[0.0])
    assert metrics(DpoTies(beta=0.5, model=model), swapped) == pytest.approx(REPORTED)
    tied = replace(PAIR, soft=[0.5])
    assert metrics(DpoTies(beta=0.5, model=model), tied) == pytest.approx({**REPORTED, "accuracy": 0.5})


@pytest.mark.parametrize("spec", [Dpo, Ipo, Exo], ids=lambda spec: spec.name)
def test_of_soft_labels_the_answer_that_is_held_to_be_better_is_reported_as_chosen(spec: type[Dpo]) -> None:
    assert metrics(spec(beta=0.5, soft=True), replace(PAIR, pairs=[(1, 0)], soft=[0.2])) == pytest.approx(REPORTED)


@given(data=pair_data(), spec=st.sampled_from([Dpo(), Ipo(), Exo(), SimPo(), Cpo()]))
@EXAMPLES
def test_which_answer_of_a_soft_pair_comes_first_makes_no_difference(data: Data, spec: LossSpec) -> None:
    sure = replace(data, soft=[0.3 if share == 0.5 else share for share in data.soft])
    turned = replace(sure, pairs=[(z, w) for w, z in sure.pairs], soft=[1 - share for share in sure.soft])
    soft = msgspec.structs.replace(spec, soft=True)
    assert loss_and_gradient(soft, sure)[1] == pytest.approx(loss_and_gradient(soft, turned)[1], abs=1e-12)
    assert metrics(soft, sure) == pytest.approx(metrics(soft, turned), abs=1e-12)


def test_wpo_reports_its_weight_too() -> None:
    # sqrt(e^-1 / 0.5 * e^-2 / 0.25) * e^-4 / 0.125
    assert metrics(Wpo(beta=0.5), PAIR) == pytest.approx({**REPORTED, "weight": 8 * 8**0.5 * math.exp(-5.5)})


def test_losses_without_a_reference_report_no_kl() -> None:
    found = metrics(SimPo(beta=2.0), PAIR)
    assert found == pytest.approx(
        {
            "accuracy": 1.0,
            "margin": 5.0,
            "reward/chosen": -3.0,
            "reward/rejected": -8.0,
            "logprob/chosen": -3.0,
            "logprob/rejected": -4.0,
            "length/difference": 1.0,
            "length/correlation": 1.0,
        }
    )


def test_labels_report_what_pairs_report_and_the_threshold() -> None:
    data = Data([[-1.0, -2.0], [-4.0], [-1.0]], [[-2.0, -2.0], [-3.0], [-1.5]], label=[1, 0, 0], mismatched=[0, 0, 1])
    assert metrics(Kto(beta=0.5), data) == pytest.approx({**REPORTED, "z0": 0.5})


def test_a_step_of_one_kind_reports_nothing_of_the_other() -> None:
    data = Data([[-1.0], [-2.0]], [[-2.0], [-2.5]], label=[1, 1], mismatched=[0, 1])
    assert set(metrics(Kto(), data)) == {"accuracy", "kl", "reward/chosen", "logprob/chosen", "z0"}


def test_a_ranking_reports_its_best_against_its_worst_and_every_pair_of_unequal_rank() -> None:
    data = Data(
        [[-1.0], [-2.0], [-3.0, -1.0], [-1.0]],
        [[-2.0], [-2.0], [-1.0, -1.0], [-0.5]],
        group=[0, 0, 0, 0],
        rank=[0, 1, 2, 2],
    )  # rho: 1, 0, -2, -0.5
    assert metrics(PlackettLuce(beta=1.0), data) == pytest.approx(
        {
            "accuracy": 1.0,
            "margin": (1 + 3 + 1.5 + 2 + 0.5) / 5,
            "reward/chosen": 1.0,
            "reward/rejected": -1.25,
            "logprob/chosen": -1.0,
            "logprob/rejected": -2.5,
            "length/difference": -0.5,
            "length/correlation": -1.625 / (4.6875 * 0.75) ** 0.5,
            "kl": (0.5 + 0 + 2.0 + 0.125) / 4,
        }
    )

"""Where one loss becomes another, where it has its optimum, and what it does at the edge of the numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.errors import RunFailed
from truing.stage import LossSpec
from truing_preference.plugin import (
    Aot,
    Bco,
    BetaDpo,
    Cpo,
    Dpo,
    Dpop,
    DpoTies,
    Exo,
    FDpo,
    Ipo,
    Kto,
    Orpo,
    PlackettLuce,
    RDpo,
    SimPo,
    Slic,
    Wpo,
)

from .conftest import batch_of, built, labelled_data, loss_and_gradient, objective, pair_data
from .papers import Data

EXAMPLES = settings(deadline=None, max_examples=25, database=None)


def same(one: LossSpec, other: LossSpec, data: Data, within: float = 1e-10) -> None:
    for ours, theirs in zip(loss_and_gradient(one, data), loss_and_gradient(other, data), strict=True):
        assert ours == pytest.approx(theirs, rel=within, abs=within)


def apart(gap: float) -> Data:
    """One pair whose log-ratios differ by so much."""
    return Data([[-1.0 + gap], [-2.0]], [[-1.0], [-2.0]], pairs=[(0, 1)])


@pytest.mark.parametrize(
    "spec",
    [
        FDpo(beta=0.3, divergence="reverse-kl"),
        RDpo(beta=0.3, alpha=0.0),
        Dpop(beta=0.3, penalty=0.0),
        BetaDpo(beta=0.3, alpha=0.0, keep=1.0),
        Dpo(beta=0.3, label_smoothing=1e-12, robust=True),
        DpoTies(beta=0.3, nu=1 + 1e-12),
    ],
    ids=lambda spec: spec.name,
)
@given(data=pair_data())
@EXAMPLES
def test_with_its_option_at_nought_a_relative_of_dpo_is_dpo(spec: LossSpec, data: Data) -> None:
    same(spec, Dpo(beta=0.3), replace(data, soft=[1.0] * len(data.pairs)))


@given(data=pair_data())
@EXAMPLES
def test_soft_labels_of_1_are_labels(data: Data) -> None:
    sure = replace(data, soft=[1.0] * len(data.pairs))
    for loss in (Dpo, Ipo, Exo, Cpo, SimPo):
        same(loss(soft=True), loss(), sure)


@given(data=pair_data())
@EXAMPLES
def test_of_one_pair_optimal_transport_is_dpo(data: Data) -> None:
    single = replace(data, pairs=data.pairs[:1])
    same(Aot(beta=0.3), Dpo(beta=0.3), single)
    same(Aot(beta=0.3, unpaired=True), Dpo(beta=0.3), single)


@given(data=pair_data())
@EXAMPLES
def test_a_ranking_of_two_is_a_pair(data: Data) -> None:
    better, worse = data.pairs[0]
    policy, reference = ([side[better], side[worse]] for side in (data.policy, data.reference))
    ranked = Data(policy, reference, group=[0, 0], rank=[0, 1])
    same(PlackettLuce(beta=0.3), Dpo(beta=0.3), replace(ranked, pairs=[(0, 1)]))


@given(data=pair_data())
@EXAMPLES
def test_simpo_without_a_margin_is_length_normalised_dpo_without_a_reference(data: Data) -> None:
    nobody = [[0.0] * len(tokens) for tokens in data.policy]
    same(SimPo(beta=2.0, gamma=0.0), Dpo(beta=2.0, per_token=True), replace(data, reference=nobody))


@given(data=pair_data())
@EXAMPLES
def test_the_alpha_divergence_goes_from_reverse_to_forward_kl(data: Data) -> None:
    same(FDpo(divergence="alpha", alpha=1e-9), FDpo(divergence="reverse-kl"), data, within=1e-6)
    same(FDpo(divergence="alpha", alpha=1 - 1e-9), FDpo(divergence="forward-kl"), data, within=1e-6)


@pytest.mark.parametrize(
    ("spec", "gap"),
    [
        (Dpo(label_smoothing=0.5), 0.0),
        (Aot(label_smoothing=0.5), 0.0),
        (Exo(label_smoothing=0.5), 0.0),
        (Cpo(label_smoothing=0.5, sft_weight=0.0), -1.0),  # the policy holds both answers for as likely
        (SimPo(label_smoothing=0.5, beta=2.0, gamma=1.0), -0.5),  # the policy's margin is gamma
    ],
    ids=lambda some: getattr(some, "name", ""),
)
def test_labels_that_are_wrong_half_the_time_teach_nothing_where_the_margin_is_nought(
    spec: LossSpec, gap: float
) -> None:
    assert loss_and_gradient(spec, apart(gap))[1] == pytest.approx([0, 0], abs=1e-12)
    assert max(map(abs, loss_and_gradient(spec, apart(gap + 0.5))[1])) > 1e-3


def test_wpo_is_dpo_where_every_token_is_as_likely_as_one_that_is_drawn_and_half_of_it_where_half_as_likely() -> None:
    data = Data([[-1.0, -3.0], [-2.0]], [[-1.5, -1.0], [-1.0]], pairs=[(0, 1)])
    drawn = replace(data, squares=[[math.exp(-1.0), math.exp(-3.0)], [math.exp(-2.0)]])
    same(Wpo(), Dpo(), drawn)
    odd = replace(data, squares=[[2 * math.exp(-1.0), 2 * math.exp(-3.0)], [math.exp(-2.0)]])
    assert loss_and_gradient(Wpo(), odd)[0] == pytest.approx(loss_and_gradient(Dpo(), data)[0] / 2)


@given(st.floats(0.05, 2.0))
@EXAMPLES
def test_ipo_wants_log_ratios_to_differ_by_half_of_one_over_beta(beta: float) -> None:
    loss, slope = loss_and_gradient(Ipo(beta=beta), apart(1 / (2 * beta)))
    assert loss == pytest.approx(0, abs=1e-20)
    assert slope == pytest.approx([0, 0], abs=1e-10)
    assert loss_and_gradient(Ipo(beta=beta), apart(1 / beta))[1][0] > 0


@given(st.floats(0.01, 0.99), st.floats(0.1, 2.0))
@EXAMPLES
def test_with_soft_labels_dpo_wants_the_odds_of_the_votes(share: float, beta: float) -> None:
    odds = math.log(share / (1 - share))
    voted = replace(apart(odds / beta), soft=[share])
    assert loss_and_gradient(Dpo(beta=beta, soft=True), voted)[1] == pytest.approx([0, 0], abs=1e-10)


def test_a_split_vote_wants_ipo_to_leave_both_answers_alike() -> None:
    assert loss_and_gradient(Ipo(soft=True), replace(apart(0.0), soft=[0.5]))[1] == [0, 0]


def test_exo_wants_the_odds_of_its_smoothed_labels() -> None:
    data = apart(math.log(0.9 / 0.1) / 0.5)
    loss, slope = loss_and_gradient(Exo(beta=0.5, label_smoothing=0.1), data)
    assert loss == pytest.approx(0, abs=1e-12)
    assert slope == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("model", ["rao-kupper", "davidson"])
def test_two_equal_answers_tie_half_the_time(model: str) -> None:
    tied = replace(apart(0.0), soft=[0.5])
    assert loss_and_gradient(DpoTies(model=model), tied)[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("model", ["rao-kupper", "davidson"])
@given(st.floats(-20, 20), st.floats(1.1, 5))
@EXAMPLES
def test_winning_losing_and_tying_are_all_that_can_happen(model: str, gap: float, nu: float) -> None:
    verdicts = [replace(apart(gap), soft=[soft]) for soft in (1.0, 0.5, 0.0)]
    losses = [loss_and_gradient(DpoTies(beta=0.5, model=model, nu=nu), verdict)[0] for verdict in verdicts]
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1)


def test_a_chosen_answer_that_becomes_less_likely_is_pulled_up_by_dpo_positive_more_than_by_dpo() -> None:
    fallen = Data([[-3.0], [-9.0]], [[-1.0], [-2.0]], pairs=[(0, 1)])  # the pair is won, and both have fallen
    assert loss_and_gradient(Dpo(beta=0.3), fallen)[1][0] > -0.1
    assert loss_and_gradient(Dpop(beta=0.3), fallen)[1][0] < -10


@given(labelled_data())
@EXAMPLES
def test_before_the_first_step_kto_is_one_half_of_its_weights(data: Data) -> None:
    still = replace(data, policy=data.reference)
    assert loss_and_gradient(Kto(desirable_weight=1.5, undesirable_weight=1.5), still)[0] == pytest.approx(0.75)


def test_the_estimate_of_kto_moves_nothing_itself() -> None:
    data = Data([[-1.0], [-2.0], [-0.5]], [[-1.5], [-1.5], [-1.5]], label=[1, 0, 0], mismatched=[0, 0, 1])
    assert loss_and_gradient(Kto(), data)[1][2] == 0


@pytest.mark.parametrize("spec", [Dpo(), SimPo()], ids=lambda spec: spec.name)
@pytest.mark.parametrize("empty", [0, 1], ids=["first", "last"])
def test_a_completion_without_tokens_ends_the_run_and_is_not_worth_nothing(spec: LossSpec, empty: int) -> None:
    tokens: list[list[float]] = [[-1.0], [-2.0]]
    tokens[empty] = []
    with pytest.raises(RunFailed, match="1 of the 2 completions of a step have no tokens"):
        built(spec)(batch_of(Data(tokens, tokens, pairs=[(0, 1)])))


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (PlackettLuce(), Data([[-1.0], []], [[-1.0], []], group=[0, 0], rank=[0, 1])),
        (Bco(), Data([[-1.0], []], [[-1.0], []], label=[1, 0])),
    ],
    ids=["plackett-luce", "bco"],
)
def test_nor_is_one_that_is_ranked_or_labelled(spec: LossSpec, data: Data) -> None:
    with pytest.raises(RunFailed, match="have no tokens"):
        built(spec)(batch_of(data))


@pytest.mark.parametrize(
    ("mismatched", "why"), [([0, 0], "another prompt, which `mismatched = true` adds"), ([1, 1], "its own prompt")]
)
def test_kto_says_what_a_step_lacks_to_estimate_how_far_it_is(mismatched: list[int], why: str) -> None:
    data = Data([[-1.0], [-2.0]], [[-1.5], [-1.5]], label=[1, 0], mismatched=mismatched)
    with pytest.raises(RunFailed, match=f"no completion of this step was written for {why}"):
        built(Kto())(batch_of(data))


def test_certain_answers_have_finite_odds_and_gradients() -> None:
    certain = Data([[0.0], [-40.0]], [[0.0], [0.0]], pairs=[(0, 1), (1, 0)])
    loss, slope = loss_and_gradient(Orpo(), certain)
    assert all(map(math.isfinite, (loss, *slope)))


@pytest.mark.parametrize("divergence", ["forward-kl", "js", "alpha"])
def test_an_answer_that_became_impossible_gives_finite_numbers_in_single_precision(divergence: str) -> None:
    batch = batch_of(Data([[-500.0], [-1.0]], [[-1.0], [-500.0]], pairs=[(0, 1), (1, 0)]))
    single = batch.put_all({key: value.detach().float() for key, value in batch.items() if value.is_floating_point()})
    spec = FDpo(divergence=divergence)
    (leaf,) = (value.requires_grad_() for key, value in single.items() if key.name == "logprobs")
    total = objective(built(spec)(single), single)
    (slope,) = torch.autograd.grad(total, leaf)
    assert bool(torch.isfinite(total))
    assert bool(torch.isfinite(slope.square().sum()))


def test_the_sft_term_is_apart_and_only_where_it_has_a_weight() -> None:
    batch = batch_of(Data([[-1.0, -3.0], [-4.0]], [[-1.0, -1.0], [-1.0]], pairs=[(0, 1)]))
    assert set(built(Dpo())(batch).terms) == {"dpo"}
    terms = built(Slic(sft_weight=0.5))(batch).terms
    assert (float(terms["nll"].total.detach()), terms["nll"].per, terms["nll"].weight) == (2.0, "pair", 0.5)


def test_options_that_look_at_more_of_a_pair_need_it() -> None:
    assert {field.name for field in Dpo(soft=True, margin_weight=1.0).requires() - Dpo().requires()} == {
        "soft",
        "margin",
    }


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (Dpo(robust=True), "robust corrects for flipped labels, and label_smoothing is 0.0"),
        (Dpo(robust=True, label_smoothing=0.5), "label_smoothing is 0.5"),
        (DpoTies(nu=0.9), "nu = 0.9 leaves rao-kupper no ties"),
        (DpoTies(model="davidson", nu=0.0), "nu = 0.0 leaves davidson no ties"),
    ],
)
def test_options_that_cannot_be_are_told(spec: LossSpec, what: str) -> None:
    (fault,) = spec.problems()
    assert what in fault.what
    assert fault.mend


@pytest.mark.parametrize("spec", [Dpo(robust=True, label_smoothing=0.1), DpoTies(), DpoTies(model="davidson", nu=0.5)])
def test_options_that_can_be_are_not(spec: LossSpec) -> None:
    assert not list(spec.problems())

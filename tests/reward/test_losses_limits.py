"""Where one loss on scores becomes another, where it has its optimum, and what it does at the edge of the numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import SCORES
from truing.stage import LossSpec
from truing_reward.menu_losses import BradleyTerry, BradleyTerryTies, OutcomeBce, PlackettLuceReward

from .papers import Data
from .worlds import batch_of, built, loss_and_gradient, objective, pair, pair_data, ranked_data

EXAMPLES = settings(deadline=None, max_examples=40, database=None)


def same(one: LossSpec, other: LossSpec, data: Data, also: Data | None = None, within: float = 1e-10) -> None:
    for ours, theirs in zip(loss_and_gradient(one, data), loss_and_gradient(other, also or data), strict=True):
        assert ours == pytest.approx(theirs, rel=within, abs=within)


def loss(spec: LossSpec, data: Data) -> float:
    return loss_and_gradient(spec, data)[0]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [BradleyTerryTies(nu=1 + 1e-12), BradleyTerryTies(model="davidson", nu=1e-12)],
    ids=["rao-kupper", "davidson"],
)
@given(data=pair_data())
@EXAMPLES
def test_where_ties_cannot_happen_a_model_of_ties_is_bradley_terry(spec: LossSpec, data: Data) -> None:
    sure = replace(data, soft=[1.0] * len(data.pairs))
    same(spec, BradleyTerry(), sure)


@given(data=pair_data())
@EXAMPLES
def test_a_loss_below_one_half_is_a_win_of_the_other(data: Data) -> None:
    lost = replace(data, soft=[0.2] * len(data.pairs))
    turned = replace(data, soft=[0.8] * len(data.pairs), pairs=[(b, a) for a, b in data.pairs])
    for model in ("rao-kupper", "davidson"):
        same(BradleyTerryTies(model=model), BradleyTerryTies(model=model), lost, turned)
    same(BradleyTerry(soft=True), BradleyTerry(soft=True), lost, turned)


@given(data=pair_data())
@EXAMPLES
def test_soft_labels_of_1_are_labels_and_margins_of_0_are_none(data: Data) -> None:
    plain = replace(data, soft=[1.0] * len(data.pairs), margin=[0.0] * len(data.pairs))
    same(BradleyTerry(soft=True, margin=True), BradleyTerry(), plain)


@given(data=pair_data(), smoothing=st.floats(0, 0.49))
@EXAMPLES
def test_smoothed_labels_are_soft_labels_a_little_less_sure(data: Data, smoothing: float) -> None:
    softened = replace(data, soft=[1 - smoothing] * len(data.pairs))
    same(BradleyTerry(label_smoothing=smoothing), BradleyTerry(soft=True), softened)


@given(data=pair_data())
@EXAMPLES
def test_prompts_of_a_pair_each_weigh_what_their_pairs_do(data: Data) -> None:
    firsts = {data.group[pair[0]]: at for at, pair in enumerate(data.pairs)}.values()
    single = replace(data, **{part: [getattr(data, part)[at] for at in firsts] for part in ("pairs", "soft", "margin")})
    same(BradleyTerry(per="group"), BradleyTerry(per="pair"), single)


def test_a_prompt_with_many_pairs_weighs_as_one_with_a_single_pair_if_asked() -> None:
    """InstructGPT's 1 / C(K, 2): all pairs of four answers, beside one pair; each prompt has the same weight."""
    four = list(combinations(range(4), 2))
    both = Data([2.0, 1.0, 0.0, -1.0, 0.3, 0.1], [1] * 6, [0] * 4 + [1] * 2, pairs=[*four, (4, 5)])
    alone = [replace(both, scores=both.scores[:4], length=[1] * 4, group=[0] * 4, pairs=four), pair(0.3, 0.1)]
    expected = sum(loss(BradleyTerry(), some) for some in alone) / 2
    assert loss(BradleyTerry(per="group"), both) == pytest.approx(expected, abs=1e-12)
    assert loss(BradleyTerry(per="pair"), both) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"top": 1}, {"ties": "breslow"}])
@given(data=pair_data(), center=st.floats(0, 1))
@EXAMPLES
def test_a_ranking_of_two_is_a_pair(options: Any, data: Data, center: float) -> None:
    one, two = (data.scores[at] for at in data.pairs[0])
    same(
        PlackettLuceReward(center=center, **options),
        BradleyTerry(center=center),
        ranked([one, two], [0, 1]),
        pair(one, two),
    )


# --- likelihoods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [[0.3, -1.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
def test_the_likelihoods_of_all_rankings_make_one(scores: list[float]) -> None:
    chances = [math.exp(-loss(PlackettLuceReward(), ranked(scores, order))) for order in permutations(range(4))]
    assert sum(chances) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_what_is_not_known_behind_the_first_places_is_summed_over(top: int) -> None:
    """With `top`, or with all others tied behind, the likelihood is that of every ranking that begins so."""
    scores = [0.3, -1.0, 2.0, 0.5]
    for first in permutations(range(4), top):
        rest = [at for at in range(4) if at not in first]
        orders = [[*first, *others] for others in permutations(rest)]
        places = [[order.index(at) for at in range(4)] for order in orders]
        expected = sum(math.exp(-loss(PlackettLuceReward(), ranked(scores, rank))) for rank in places)
        assert math.exp(-loss(PlackettLuceReward(top=top), ranked(scores, places[0]))) == pytest.approx(expected)
        tied = [min(place, top) for place in places[0]]
        assert math.exp(-loss(PlackettLuceReward(), ranked(scores, tied))) == pytest.approx(expected)


def test_the_best_alone_is_the_softmax_of_all() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
    expected = float(-scores.log_softmax(0)[2])
    assert loss(PlackettLuceReward(top=1), ranked(scores.tolist(), [1, 2, 0, 3])) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["rao-kupper", "davidson"])
@given(one=st.floats(-4, 4), two=st.floats(-4, 4), ease=st.floats(0.01, 4))
@EXAMPLES
def test_won_lost_and_tied_are_all_that_can_happen(model: Any, one: float, two: float, ease: float) -> None:
    nu = 1 + ease if model == "rao-kupper" else ease
    said = (pair(one, two, soft=[soft]) for soft in (1.0, 0.5, 0.0))
    assert sum(math.exp(-loss(BradleyTerryTies(model=model, nu=nu), some)) for some in said) == pytest.approx(1)


@pytest.mark.parametrize("model", ["rao-kupper", "davidson"])
def test_by_default_equals_tie_half_the_time(model: Any) -> None:
    assert math.exp(-loss(BradleyTerryTies(model=model), pair(0.7, 0.7, soft=[0.5]))) == pytest.approx(0.5)


# --- optima and directions --------------------------------------------------------------------------------------------


def test_a_tie_draws_rewards_together_and_a_soft_label_of_one_half_only_holds_them() -> None:
    """Far apart the pull of a tie is as strong as that of any surprise; a pair that nobody is sure of pulls half."""
    for model in ("rao-kupper", "davidson"):
        _, slope = loss_and_gradient(BradleyTerryTies(model=model), pair(9.0, -9.0, soft=[0.5]))
        assert slope[0] > 0.4
        assert slope[0] == pytest.approx(-slope[1])
    _, equal = loss_and_gradient(BradleyTerryTies(), pair(1.0, 1.0, soft=[0.5]))
    assert equal == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize(("ties", "least"), [("uncompared", 0.0), ("breslow", 2 * math.log(2))])
def test_answers_that_are_tied_are_drawn_together_only_if_they_were_judged_equal(ties: Any, least: float) -> None:
    """All of a prompt are tied: nothing is known, or all are equal, which costs least where their rewards are."""
    spec = PlackettLuceReward(ties=ties)
    apart, slope = loss_and_gradient(spec, ranked([0.0, 2.0], [0, 0]))
    together, still = loss_and_gradient(spec, ranked([1.0, 1.0], [0, 0]))
    assert together == pytest.approx(least)
    assert still == pytest.approx([0, 0])
    assert (apart > least) == (slope[1] > 0 > slope[0]) == (ties == "breslow")


def test_centering_has_the_gradient_of_a_squared_sum_and_moves_both_rewards_alike() -> None:
    data = pair(2.0, 1.0)
    _, plain = loss_and_gradient(BradleyTerry(), data)
    _, centered = loss_and_gradient(BradleyTerry(center=0.1), data)
    added = [with_center - without for with_center, without in zip(centered, plain, strict=True)]
    assert added == pytest.approx([0.1 * 2 * 3.0] * 2)  # c * d(r_w + r_l)^2 = 2 c (r_w + r_l)
    _, balanced = loss_and_gradient(BradleyTerry(center=0.1), pair(1.0, -1.0))
    assert sum(balanced) == pytest.approx(0, abs=1e-12)


def test_a_margin_asks_for_more_than_an_order() -> None:
    _, plain = loss_and_gradient(BradleyTerry(), pair(1.0, 0.0))
    _, wide = loss_and_gradient(BradleyTerry(margin=True), pair(1.0, 0.0, margin=[3.0]))
    assert wide[0] < plain[0] < 0
    same(BradleyTerry(margin=True), BradleyTerry(), pair(4.0, 0.0, margin=[3.0]), pair(1.0, 0.0))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_votes_are_fitted_by_the_log_odds_of_their_share(share: float) -> None:
    gap = math.log(share / (1 - share))
    _, slope = loss_and_gradient(BradleyTerry(soft=True), pair(gap / 2, -gap / 2, soft=[share]))
    assert slope == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("right", [1, 3])
def test_an_outcome_model_that_knows_nothing_says_the_log_odds_of_being_right(right: int) -> None:
    odds = math.log(right / (4 - right))
    data = Data([odds] * 4, [1] * 4, [0] * 4, label=[int(at < right) for at in range(4)])
    _, slope = loss_and_gradient(OutcomeBce(), data)
    assert sum(slope) == pytest.approx(0, abs=1e-12)
    balanced = OutcomeBce(desirable_weight=1 / right, undesirable_weight=1 / (4 - right))
    _, slope = loss_and_gradient(balanced, replace(data, scores=[0.0] * 4))
    assert sum(slope) == pytest.approx(0, abs=1e-12)


# --- the edge of the numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [-1e4, -100.0, 100.0, 1e4])
def test_in_single_precision_no_distance_is_too_far(gap: float) -> None:
    said = pair(gap, 0.0, soft=[0.5], margin=[1.0], rank=[0, 1], label=[1, 0])
    for spec in (
        BradleyTerry(label_smoothing=0.1, margin=True),
        BradleyTerry(soft=True),
        BradleyTerryTies(),
        BradleyTerryTies(model="davidson"),
        PlackettLuceReward(ties="breslow"),
        OutcomeBce(),
    ):
        batch = batch_of(said)
        scores = batch[SCORES].detach().float().requires_grad_()
        found = objective(built(spec)(batch.put(SCORES, scores)), batch)
        (slope,) = torch.autograd.grad(found, scores)
        assert bool(found.isfinite()), f"{spec.name}: {found}"
        assert bool(slope.isfinite().all()), f"{spec.name}: {slope}"


@given(data=ranked_data())
@EXAMPLES
def test_rewards_are_compared_within_a_prompt_alone(data: Data) -> None:
    """A constant added to all rewards of one prompt changes nothing."""
    moved = [score + 3.0 * group for score, group in zip(data.scores, data.group, strict=True)]
    for ties in ("uncompared", "breslow"):
        same(PlackettLuceReward(ties=ties), PlackettLuceReward(ties=ties), data, replace(data, scores=moved), 1e-9)


def ranked(scores: Any, rank: Any) -> Data:
    """One prompt with a ranking."""
    return Data(list(scores), [1] * len(rank), [0] * len(rank), rank=list(rank))

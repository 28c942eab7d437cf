"""What losses on scores report, and that a step's numbers are those of its parts together."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import LABEL, SCORES
from truing.stage import LossSpec
from truing_reward.menu_losses import BradleyTerry, BradleyTerryTies, OutcomeBce, PlackettLuceReward
from truing_tensor.groups import take

from .papers import Data
from .worlds import batch_of, built, labelled_data, loss_and_gradient, objective, pair, pair_data, ranked_data, reported

EXAMPLES = settings(deadline=None, max_examples=30, database=None)


def report(spec: LossSpec, data: Data) -> dict[str, float]:
    return reported(spec, batch_of(data))


def test_what_is_reported_of_pairs() -> None:
    """A pair that is right by 2, one that is wrong by 1, one whose rewards are equal."""
    data = Data([2, 0, 0, 1, 3, 3], [4, 2, 1, 3, 5, 5], [0, 0, 1, 1, 2, 2], pairs=[(0, 1), (2, 3), (4, 5)])
    found = report(BradleyTerry(center=0.5), data)
    assert found["accuracy"] == pytest.approx(1.5 / 3)
    assert found["reward/equal"] == pytest.approx(1 / 3)
    assert found["margin"] == pytest.approx((2 - 1 + 0) / 3)
    assert found["reward/chosen"] == pytest.approx((2 + 0 + 3) / 3)
    assert found["reward/rejected"] == pytest.approx((0 + 1 + 3) / 3)
    assert found["length/difference"] == pytest.approx((2 - 2 + 0) / 3)
    assert found["nll"] == pytest.approx(float(np.mean(np.log1p(np.exp([-2, 1, 0])))))
    assert found["length/correlation"] == pytest.approx(np.corrcoef(data.scores, data.length)[0, 1])


def test_what_votes_or_verdicts_speak_for_is_the_chosen_one() -> None:
    said = pair(2.0, -1.0, soft=[0.2])
    for spec in (BradleyTerry(soft=True), BradleyTerryTies()):
        found = report(spec, said)
        assert (found["reward/chosen"], found["reward/rejected"]) == (-1, 2)
        assert (found["accuracy"], found["margin"], found["length/difference"]) == (0, -3, -1)


@pytest.mark.parametrize("spec", [BradleyTerry(soft=True), BradleyTerryTies()])
def test_where_nobody_is_preferred_every_order_is_half_right(spec: LossSpec) -> None:
    assert report(spec, pair(2.0, -1.0, soft=[0.5]))["accuracy"] == 0.5


def test_ties_that_were_said_stand_beside_those_the_model_expects() -> None:
    scores = [0.0, 0.0, 5.0, -5.0]
    data = Data(scores, [1] * 4, [0, 0, 1, 1], pairs=[(0, 1), (2, 3)], soft=[0.45, 1.0])
    assert report(BradleyTerryTies(), data)["ties"] == 0
    found = report(BradleyTerryTies(tied_within=0.1), data)
    assert found["ties"] == 0.5
    far = 8 / (1 + 3 * np.exp(10)) / (1 + 3 * np.exp(-10))
    assert found["ties/expected"] == pytest.approx((0.5 + far) / 2)


def test_the_nll_of_pairs_is_that_of_the_comparisons_whatever_the_loss_adds() -> None:
    data = pair(1.5, 0.5, soft=[1.0], margin=[2.0])
    found = [
        report(spec, data)["nll"] for spec in (BradleyTerry(), BradleyTerry(margin=True, label_smoothing=0.1, center=1))
    ]
    assert found == pytest.approx([0.31326168751822286] * 2)


def test_what_is_reported_of_rankings() -> None:
    """The best has the highest reward in the first prompt; in the second it shares it with a worse one."""
    data = Data([3, 1, 2, 0, 0], [5, 1, 2, 4, 2], [0, 0, 0, 1, 1], rank=[0, 1, 2, 0, 1])
    found = report(PlackettLuceReward(), data)
    assert found["accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["top1"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["reward/equal"] == pytest.approx((0 + 1) / 2)
    assert found["margin"] == pytest.approx(((2 + 1 - 1) / 3 + 0) / 2)
    assert (found["reward/chosen"], found["reward/rejected"]) == ((3 + 0) / 2, (2 + 0) / 2)
    assert found["length/difference"] == pytest.approx((3 + 2) / 2)
    assert found["length/correlation"] == pytest.approx(np.corrcoef(data.scores, data.length)[0, 1])


def test_tied_completions_are_not_compared_and_share_a_place() -> None:
    data = Data([3, 1, 2, 0], [1, 1, 1, 5], [0] * 4, rank=[0, 0, 1, 1])
    found = report(PlackettLuceReward(), data)
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert (found["reward/chosen"], found["reward/rejected"]) == (2, 1)


def test_what_is_reported_of_labels() -> None:
    data = Data([2.0, -1.0, 0.0, 1.0], [3, 1, 2, 2], [0, 0, 1, 1], label=[1, 0, 1, 0])
    found = report(OutcomeBce(desirable_weight=3.0), data)
    chance = 1 / (1 + np.exp(-np.array(data.scores, float)))
    label = np.array(data.label)
    assert found["accuracy"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert found["desirable"] == 0.5
    assert found["probability"] == pytest.approx(chance.mean())
    assert found["brier"] == pytest.approx(np.square(chance - label).mean())
    assert found["nll"] == pytest.approx(-(label * np.log(chance) + (1 - label) * np.log(1 - chance)).mean())
    assert found["label/correlation"] == pytest.approx(np.corrcoef(data.scores, label)[0, 1])
    assert found["length/correlation"] == pytest.approx(np.corrcoef(data.scores, data.length)[0, 1])


def test_no_metric_holds_on_to_the_network() -> None:
    data = pair(1.0, 0.0, soft=[0.7], rank=[0, 1], label=[1, 0])
    for spec in (BradleyTerry(soft=True), BradleyTerryTies(), PlackettLuceReward(), OutcomeBce()):
        assert not any(term.total.requires_grad for term in built(spec)(batch_of(data)).metrics.values()), spec.name


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.int64, torch.float32])
def test_labels_mean_the_same_in_every_type(kind: torch.dtype) -> None:
    batch = batch_of(Data([2.0, -1.0, 0.5], [1, 1, 1], [0, 0, 0], label=[1, 0, 0]))
    expected = objective(built(OutcomeBce())(batch), batch)
    typed = batch.put(LABEL, batch[LABEL].to(kind))
    assert torch.equal(objective(built(OutcomeBce())(typed), batch), expected)


CASES = [
    (BradleyTerry(soft=True, margin=True, center=0.1), pair_data()),
    (BradleyTerry(per="group", center=0.1), pair_data()),
    (BradleyTerryTies(model="davidson", per="group"), pair_data()),
    (PlackettLuceReward(center=0.1), ranked_data()),
    (PlackettLuceReward(top=1, ties="breslow"), ranked_data()),
    (OutcomeBce(desirable_weight=2.0), labelled_data()),
]


@pytest.mark.parametrize(("spec", "worlds"), CASES, ids=[spec.name for spec, _ in CASES])
@given(choices=st.data(), seed=st.integers(0, 1000))
@EXAMPLES
def test_numbers_do_not_depend_on_how_a_step_is_cut_or_ordered(
    spec: LossSpec, worlds: Any, choices: st.DataObject, seed: int
) -> None:
    step = batch_of(choices.draw(worlds))
    count = len(set(step[next(iter(step))]))
    order = random.Random(seed).sample(range(count), count)
    at = seed % (count + 1)
    pieces = [take(step, some) for some in (order[:at], order[at:]) if some]
    whole, parts = reported(spec, step), reported(spec, step, pieces)
    assert parts == pytest.approx(whole, abs=1e-9)


def test_the_loss_of_a_batch_is_the_mean_of_its_pairs_alone() -> None:
    """A sum over the batch inside the sigmoid would not be."""
    scores = torch.randn(16, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(at, at + 1) for at in range(0, 16, 2)]
    whole = Data(scores, [1] * 16, [at // 2 for at in range(16)], pairs=pairs)
    alone = [pair(scores[better], scores[worse]) for better, worse in pairs]
    expected = sum(loss_and_gradient(BradleyTerry(), some)[0] for some in alone) / 8
    assert loss_and_gradient(BradleyTerry(), whole)[0] == pytest.approx(expected)


def test_scores_in_single_precision_are_learned_beside_labels_of_any() -> None:
    batch = batch_of(pair(1.0, 0.0, soft=[0.7], margin=[0.5]))
    scores = batch[SCORES].detach().float().requires_grad_()
    value = built(BradleyTerry(soft=True, margin=True))(batch.put(SCORES, scores))
    assert value.terms["bradley-terry"].total.dtype == torch.float32

"""Losses on comparisons by people who do not agree, against numbers worked out by hand; and what is just to groups."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import Any

import anyio
import pytest
import torch
from tests.pluralism.worlds import margins, teach, world

from truing.errors import UserError
from truing.fields import (
    CHOSEN,
    GROUP,
    IDS,
    MEMBER_SCORES,
    NORMAL_SCORES,
    REJECTED,
    SCORES,
    SEQ,
    SOFT,
    STRATUM,
    TASTES,
    TRAITS,
    Batch,
)
from truing.run import Run
from truing.stage import LossValue, ScorerSpec
from truing.testing import check_imports, check_spec, recipe
from truing_model.by_group import of_groups
from truing_model.step import StepSums, counts_of
from truing_pluralism.menu_groups import GroupDro, MaxMin
from truing_pluralism.menu_losses import LOSSES, BradleyTerryConditioned, BradleyTerryNormal
from truing_pluralism.menu_planted import PlantedAnnotators
from truing_pluralism.planted import PlantedPeople
from truing_preference.menu_pairs import Dpo
from truing_reward.menu_losses import BradleyTerry
from truing_tensor.groups import by_stratum
from truing_tensor.testing import made_up

NOBODY: Any = None
HALF = math.log(math.expm1(1.0))
"""What softplus makes 1 of."""


def pairs(**values: Any) -> Batch:
    """Three prompts with a pair each; the second pair has its better completion second."""
    batch = Batch(
        {
            IDS: ["a", "b", "c"],
            GROUP: torch.tensor([0, 0, 1, 1, 2, 2]),
            CHOSEN: torch.tensor([0, 3, 4]),
            REJECTED: torch.tensor([1, 2, 5]),
            SOFT: torch.tensor([0.9, 0.6, 0.2]),
        }
    )
    return batch.put_all(values)


def total(value: LossValue, batch: Batch) -> float:
    sums = StepSums(counts_of(batch))
    return float(sum(term.weight * term.total.detach() / sums.denominator(term) for term in value.terms.values()))


def test_the_menu_is_light_and_keeps_its_promises() -> None:
    check_imports("truing_pluralism.plugin")
    for spec in LOSSES:
        check_spec(spec)
    check_spec(GroupDro, loss=BradleyTerry())
    check_spec(PlantedAnnotators)


def test_the_reward_of_who_compares_is_what_all_share_and_what_they_care_for() -> None:
    traits = torch.tensor(
        [[1.0, 2.0], [0.5, -1.0], [0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 3.0]], dtype=torch.float64
    )
    tastes = torch.tensor([[1.0, 0.5], [1.0, -2.0], [1.0, 0.0]], dtype=torch.float64)
    batch = pairs().put_all({TRAITS: traits, TASTES: tastes})
    differences = (0.5 + 0.5 * 3.0, 1.0 - 2.0 * 1.0, 2.0)
    beliefs = (0.9, 0.6, 0.2)
    nll = [
        -t * math.log(1 / (1 + math.exp(-d))) - (1 - t) * math.log(1 / (1 + math.exp(d)))
        for d, t in zip(differences, beliefs, strict=True)
    ]
    value = BradleyTerryConditioned(soft=True, shrink=0.1).build(NOBODY)(batch)
    assert total(value, batch) == pytest.approx((sum(nll) + 0.1 * (0.25 + 4.0)) / 3, abs=1e-6)
    shared = [math.log(1 + math.exp(-d)) for d in (0.5, 1.0, 2.0)]
    hard = BradleyTerryConditioned().build(NOBODY)(batch).metrics["nll/shared"].total
    assert float(hard) == pytest.approx(sum(shared), abs=1e-6)


def test_a_reward_as_a_distribution_wins_as_the_difference_of_normal_variables_does() -> None:
    scores = torch.tensor(
        [[1.0, HALF], [0.0, HALF], [0.3, 0.0], [0.1, 2.0], [5.0, -9.0], [-5.0, -9.0]], dtype=torch.float64
    )
    batch = pairs().put(NORMAL_SCORES, scores)
    nll = 0.0
    for (first, second), t in zip(((0, 1), (3, 2), (4, 5)), (0.9, 0.6, 0.2), strict=True):
        (m, s), (n, r) = scores[first].tolist(), scores[second].tolist()
        deviations = [math.log1p(math.exp(each)) + 1e-3 for each in (s, r)]
        z = (m - n) / math.hypot(*deviations)
        # Far out a float has no room for 1 - Phi, and the loss must have.
        lost = math.log(NormalDist().cdf(-z)) if z < 5 else -z * z / 2 - math.log(z * math.sqrt(2 * math.pi))
        nll -= t * math.log(NormalDist().cdf(z)) + (1 - t) * lost
    value = BradleyTerryNormal(soft=True).build(NOBODY)(batch)
    assert total(value, batch) == pytest.approx(nll / 3, rel=1e-4)


def test_how_much_completions_explain_of_rewards_is_reported() -> None:
    scores = torch.tensor([[1.0, HALF], [-1.0, HALF]] * 3, dtype=torch.float64)
    batch = pairs().put(NORMAL_SCORES, scores)
    sums = StepSums(counts_of(batch))
    sums.look(BradleyTerryNormal().build(NOBODY), batch, Batch())
    # The means have variance 1, and so have people: half of a reward is who is asked.
    assert sums.report()["explained"] == pytest.approx(1 / (1 + 1.001**2), abs=1e-6)


# --- groups -----------------------------------------------------------------------------------------------------------


def grouped(scores: list[float], strata: list[str]) -> Batch:
    given = torch.tensor(scores, dtype=torch.float64).requires_grad_()
    return pairs().put_all({SCORES: given, STRATUM: strata, SEQ: torch.arange(6)})


def test_weights_of_groups_follow_their_losses_by_exponentiated_gradient_once_a_step_is_taken() -> None:
    batch = grouped([1.0, 0.0, 0.5, 0.0, 2.0, 0.0], ["north", "south", "north"])
    losses = {"north": (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2, "south": math.log1p(math.exp(0.5))}

    def expected(steps: int) -> dict[str, float]:
        grown = {name: math.exp(0.7 * steps * value) for name, value in losses.items()}
        return {name: value / sum(grown.values()) for name, value in grown.items()}

    loss: Any = GroupDro(loss=BradleyTerry(), rate=0.7).build(NOBODY)
    loss(batch)  # a step that was stopped: it counts for nothing
    for steps in (1, 2):
        value, weights = loss(batch), expected(steps)
        assert total(value, batch) == pytest.approx(sum(weights[name] * losses[name] for name in losses), rel=1e-6)
        assert float(value.metrics["weight/south"].total) == pytest.approx(weights["south"], rel=1e-6)
        assert float(value.metrics["worst/accuracy"].total) == 0.0
        (slope,) = torch.autograd.grad(value.terms["group-dro"].total, batch[SCORES])
        wrong = 1 / (1 + math.exp(-0.5))
        assert slope[2:4].tolist() == pytest.approx([weights["south"] * wrong, -weights["south"] * wrong], rel=1e-6)
        loss.memory.learned()
    again: Any = GroupDro(loss=BradleyTerry(), rate=0.7).build(NOBODY)
    again.memory.restore(json.loads(json.dumps(loss.memory.kept())))
    held = batch.put(SCORES, batch[SCORES].detach())
    assert float(again(held).metrics["weight/south"].total) == pytest.approx(expected(2)["south"], rel=1e-6)


@pytest.mark.parametrize("spec", [BradleyTerry(label_smoothing=0.1, center=0.01), Dpo(beta=0.3)])
def test_around_any_loss_on_pairs_groups_of_one_size_and_no_rate_leave_it_as_it_is(spec: Any) -> None:
    batch = made_up(spec.requires()).put(STRATUM, ["north", "south", "west"])
    robust = GroupDro(loss=spec, rate=0.0).build(NOBODY)(batch)
    assert total(robust, batch) == pytest.approx(total(spec.build(NOBODY)(batch), batch), rel=1e-6)
    assert sum(
        float(term.total) for name, term in robust.metrics.items() if name.startswith("weight/")
    ) == pytest.approx(1)


def test_two_groups_that_compare_the_same_two_answers_are_told_apart() -> None:
    batch = grouped([1.0, 0.0, 0.5, 0.0, 2.0, 0.0], ["north", "south", "south"])
    batch = batch.put_all({CHOSEN: torch.tensor([0, 1, 4]), REJECTED: torch.tensor([1, 0, 5])})
    parts = by_stratum(batch)
    assert {name: part[IDS] for name, part in parts.items()} == {"north": ["a"], "south": ["a", "c"]}
    assert parts["south"][CHOSEN].tolist() == [1, 2]
    assert parts["south"][REJECTED].tolist() == [0, 3]


@pytest.mark.parametrize("spec", [BradleyTerry(), GroupDro(loss=BradleyTerry())])
def test_a_look_tells_accuracy_and_calibration_of_each_group_and_the_worst_accuracy(spec: Any) -> None:
    batch = grouped([1.0, 0.0, 2.0, 0.0, 1.0, 0.0], ["north", "south", "south"])
    batch = batch.put(SCORES, batch[SCORES].detach()).only(frozenset(batch) - {SOFT})
    loss = spec.build(NOBODY)
    told = of_groups(loss, batch, batch.only(frozenset([SCORES])))
    one, two = (1 / (1 + math.exp(-apart)) for apart in (1, 2))
    assert (told["accuracy/north"], told["accuracy/south"], told["worst/accuracy"]) == (1, 0.5, 0.5)
    assert told["nll/south"] == pytest.approx(-(math.log(1 - two) + math.log(one)) / 2)
    # In bins of their own: the one is right and not sure enough, the other wrong and sure.
    assert told["calibration/north"] == pytest.approx(1 - one)
    assert told["calibration/south"] == pytest.approx(((1 - one) + two) / 2)
    assert of_groups(loss, batch.put(STRATUM, ["north"] * 3), batch.only(frozenset([SCORES]))) == {}


def test_a_loss_that_looks_after_the_worst_group_serves_a_small_one_better() -> None:
    some = world(each=15, strata={"majority": 0.9, "minority": 0.1}, agreement=0.0, annotators=40, noise=0.5)
    worst: list[float] = []
    for spec in (BradleyTerry(), GroupDro(loss=BradleyTerry(), rate=0.1)):
        reward = torch.zeros(8, requires_grad=True)
        teach(
            some,
            spec,
            lambda letters, batch, reward=reward: batch.put_all(
                {SCORES: letters @ reward, SEQ: torch.arange(len(letters))}
            ),
            [reward],
            epochs=5,
            size=60,
        )
        worst.append(min(some.right(margins(some.letters(some.held) @ reward.detach(), some.held)).values()))
    assert worst[1] > worst[0] + 0.05


@pytest.mark.parametrize(("over", "expected"), [("batch", [5.0, -3.0, 1.0]), ("completion", [0.0, -3.0, 1.0])])
def test_the_group_that_is_pleased_least_is_the_one_that_counts(over: Any, expected: list[float]) -> None:
    said = torch.tensor([[0.0, 5.0], [9.0, -3.0], [1.0, 1.0]])

    class Says(ScorerSpec, frozen=True, kw_only=True):
        def build(self, run: Run) -> Any:
            return self

        async def score(self, batch: Batch) -> Batch:
            return batch.put(MEMBER_SCORES, said)

    scorer: Any = MaxMin(members=[Says()], over=over).build(NOBODY)
    scored = anyio.run(scorer.score, Batch())
    assert scored[SCORES].tolist() == expected
    assert scored[MEMBER_SCORES].tolist() == said.tolist()


def test_what_cannot_be_just_to_groups_is_refused_before_anything_is_built() -> None:
    text = """
name = "wrong"
[source]
use = "planted-annotators"
strata = { all = 0.0 }
[model]
use = "reward-model"
path = "."
[optimizer]
use = "adamw"
[loss]
use = "group-dro"
loss.use = "outcome-bce"
"""
    with pytest.raises(UserError) as told:
        recipe(text)
    assert {"a group without annotators", '"outcome-bce" learns from no pairs'} <= {
        problem.what for problem in told.value.problems
    }


# --- people who are made up -------------------------------------------------------------------------------------------


def test_planted_groups_disagree_as_much_as_they_are_told_to() -> None:
    strata = {"one": 0.5, "two": 0.3, "three": 0.2}
    people = PlantedPeople(PlantedAnnotators(agreement=-0.3, size=2000, strata=strata, pairs=False))
    texts = [group.completions[0][0]["content"] for group in people.groups()]  # type: ignore[index]
    worth = {name: torch.tensor([people.utility(text, name) for text in texts]) for name in people.worth}
    together = torch.corrcoef(torch.stack(list(worth.values())))
    assert together[0, 1:].tolist() == pytest.approx([-0.3, -0.3], abs=0.06)
    assert [float(value.std()) for value in worth.values()] == pytest.approx([1, 1, 1], abs=0.06)
    assert [people.strata.count(name) for name in people.worth] == [30, 18, 12]

"""What sets the coefficient of the KL divergence: worked by hand, with policies that answer to it, and who heeds it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import ADVANTAGES, KL_COEFFICIENT, Batch
from truing.run import Run
from truing.stage import ControllerSpec
from truing.testing import check_spec, recipe
from truing_policy.plugin import AdaptiveKl, Grpo, KlBudget, LeaveOneOut, Reinforce

from .conftest import Rollouts, built, estimated, objective


def made(spec: ControllerSpec) -> Any:
    return spec.build(Run("test", Path(), 0, Bus()))


def away(*nats: float) -> Batch:
    """Completions of two tokens that are so many nats likelier under the policy than under its reference."""
    return Rollouts([[{"old": -1.0, "ref": -1.0 - some / 2}] * 2 for some in nats]).batch()


def course(controller: Any, *nats: float) -> Iterator[dict[str, float]]:
    """What a controller reports of steps in which the divergence is so large."""
    for some in nats:
        yield controller.follow(controller.put(away(some)))


@pytest.mark.parametrize("spec", [AdaptiveKl, KlBudget])
def test_controllers_keep_their_promises(spec: type[ControllerSpec]) -> None:
    check_spec(spec, nats=2.0)


def test_the_divergence_is_the_mean_log_ratio_of_whole_completions() -> None:
    controller = made(AdaptiveKl(nats=2.0))
    told = controller.follow(controller.put(away(3.0, -1.0)))
    assert told == {"kl/completion": pytest.approx(1.0), "kl/coefficient": 0.1}


def test_the_adaptive_coefficient_is_worked_by_hand() -> None:
    # Errors of 0, 0.1, 1 which counts as 0.2, and -0.5 which counts as -0.2.
    told = list(course(made(AdaptiveKl(nats=2.0, start=0.5)), 2.0, 2.2, 4.0, 1.0, 2.0))
    expected = [0.5, 0.5, 0.5 * 1.01, 0.5 * 1.01 * 1.02, 0.5 * 1.01 * 1.02 * 0.98]
    assert [step["kl/coefficient"] for step in told] == pytest.approx(expected, abs=1e-12)


def test_a_budget_costs_nothing_within_it_and_what_was_spent_beyond_it_is_paid_off() -> None:
    controller = made(KlBudget(nats=4.0, proportional=0.1, integral=0.02))
    told = list(course(controller, 0.0, 4.0, 5.0, 6.0, 100.0, 2.0, 0.0, 0.0, 0.0))
    # Errors of -1, 0, 0.25, 0.5, 24 which counts as 1, -0.5 and -1; their sum is 0, 0, 0.25, 0.75, 1.75, 1.25, 0.25, 0.
    expected = [0, 0, 0, 0.025 + 0.005, 0.05 + 0.015, 0.1 + 0.035, 0, 0, 0]
    assert [step["kl/coefficient"] for step in told] == pytest.approx(expected, abs=1e-9)


def test_every_step_may_spend_its_part_of_a_budget() -> None:
    told = list(course(made(KlBudget(nats=3.0, pace=2.0, proportional=0.3)), 0.0, 2.0, 4.0, 4.0))
    assert [step["kl/allowed"] for step in told] == [0.0, 2.0, 3.0, 3.0]
    assert [step["kl/coefficient"] > 0 for step in told] == [False, False, False, True]


@pytest.mark.parametrize(
    ("spec", "held"), [(AdaptiveKl(nats=0.4), 0.4), (KlBudget(nats=0.4), 0.4), (KlBudget(nats=5.0), math.inf)]
)
def test_a_policy_that_answers_to_its_coefficient_comes_to_where_it_should(spec: ControllerSpec, held: float) -> None:
    """The best policy of three answers under a coefficient, pi ~ ref exp(r / coefficient), which each step nears."""
    ref, rewards = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([0.0, 0.5, 1.0]).double()
    controller, logits = made(spec), ref.log()
    kls: list[float] = []
    for _ in range(1500):
        kls.append(float((logits.softmax(0) * (logits.log_softmax(0) - ref.log())).sum()))
        batch = controller.put(away(kls[-1]))
        best = ref.log() + rewards / max(batch[KL_COEFFICIENT], 0.02)
        logits = 0.9 * logits + 0.1 * best
        controller.follow(batch)
    if math.isinf(held):
        # It wants less than its budget, so it goes as far as it will: -log 0.1 nats.
        assert kls[-1] == pytest.approx(-math.log(0.1), abs=1e-3)
        assert batch[KL_COEFFICIENT] == 0
    else:
        assert kls[-1] == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize("spec", [AdaptiveKl(nats=1.0), KlBudget(nats=1.0, pace=0.5)])
def test_a_controller_that_was_restored_goes_on_as_it_would_have(spec: ControllerSpec) -> None:
    first, second = made(spec), made(spec)
    list(course(first, 3.0, 1.7, 0.2))
    second.restore(first.kept())
    assert list(course(first, 2.0, 5.0, 0.1)) == list(course(second, 2.0, 5.0, 0.1))


def test_a_controlled_loss_and_a_controlled_reward_are_those_of_its_number() -> None:
    tokens = [[{"pi": -1.0, "old": -1.2, "ref": -2.0, "advantage": 1.0}], [{"pi": -0.5, "old": -0.4, "ref": -0.9}] * 2]
    batch = Rollouts(tokens, [0, 0], [1.0, 0.0]).batch()
    controlled = batch.put(KL_COEFFICIENT, 0.3)
    for kind in (Grpo, Reinforce):
        one, other = built(kind(kl=0.3))(batch), built(kind(kl="controlled"))(controlled)
        assert torch.equal(objective(one, batch), objective(other, batch))
    expected = estimated(LeaveOneOut(kl=0.3), batch)[ADVANTAGES]
    assert torch.equal(estimated(LeaveOneOut(kl="controlled"), controlled)[ADVANTAGES], expected)


RECIPE = """
[source]
use = "reasoning-gym"
tasks = ["gcd"]
[generator]
use = "engine"
[scorer]
use = "match"
[model]
use = "policy"
path = "org/model"
advantage = {{ use = "leave-one-out", kl = {reward} }}
[optimizer]
use = "adamw"
[loss]
use = "reinforce"
kl = {loss}
kl_estimator = "k2"
{controller}
"""
CONTROLLER = '[controller]\nuse = "adaptive-kl"\nnats = 2.0'


@pytest.mark.parametrize(("reward", "loss"), [('"controlled"', "0"), ("0", '"controlled"')])
def test_a_controller_is_heeded_in_the_reward_and_in_the_loss(reward: str, loss: str) -> None:
    assert recipe(RECIPE.format(reward=reward, loss=loss, controller=CONTROLLER)).phases[0].controller
    with pytest.raises(UserError, match=r'needs `kl_coefficient`.*\n.*\[controller\] use = "adaptive-kl" beside kl'):
        recipe(RECIPE.format(reward=reward, loss=loss, controller=""))


def test_a_controller_that_nobody_heeds_is_told() -> None:
    with pytest.raises(UserError, match="sets what no estimator and no loss heeds"):
        recipe(RECIPE.format(reward=0.1, loss=0, controller=CONTROLLER))

"""The Bradley-Terry loss against a number worked by hand, a closed form, and TRL's own."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import CHOSEN, REJECTED, SCORES
from truing_reward.menu_losses import BradleyTerry

from .papers import Data
from .worlds import batch_of, built, objective, pair, pair_data


def test_one_pair_is_the_number_worked_by_hand_and_its_gradient_pushes_the_two_apart() -> None:
    batch = batch_of(pair(1.5, 0.5))
    value = built(BradleyTerry())(batch)
    total = value.terms["bradley-terry"].total
    assert float(total.detach()) == pytest.approx(0.31326168751822286, abs=1e-12)  # log(1 + e^-1)
    [found] = torch.autograd.grad(total, batch[SCORES])
    slope = 0.2689414213699951  # sigmoid(-1)
    torch.testing.assert_close(found, torch.tensor([-slope, slope], dtype=torch.float64))
    assert float(value.metrics["accuracy"].total) == 1


def test_rewards_that_win_three_times_in_four_end_log_three_apart() -> None:
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=100)
    base = batch_of(Data([0.0, 0.0], [1, 1], [0, 0], pairs=[(0, 1), (0, 1), (0, 1), (1, 0)]))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = objective(built(BradleyTerry(center=0.1))(base.put(SCORES, scores)), base)
        total.backward()
        return total.detach()

    optimizer.step(closure)
    found = scores.detach()
    assert float(found[0] - found[1]) == pytest.approx(math.log(3), abs=1e-4)
    assert float(found.sum()) == pytest.approx(0, abs=1e-4)


@given(pair_data(), st.booleans(), st.sampled_from((None, 0.01, 0.5)))
@settings(deadline=None, max_examples=20, database=None)
def test_it_is_trls(data: Data, margin: bool, center: float | None) -> None:
    """The same scores through RewardTrainer's own loss, with margins and with centering."""
    trainer = trl(center)
    batch = batch_of(data)
    both = torch.cat([batch[SCORES][batch[CHOSEN]], batch[SCORES][batch[REJECTED]]])
    inputs: dict[str, Any] = {"attention_mask": torch.ones(len(both))}
    if margin:
        inputs["margin"] = torch.tensor(data.margin, dtype=torch.float64)
    theirs = trainer.compute_loss(lambda **_: SimpleNamespace(logits=both[:, None]), inputs)
    ours = objective(built(BradleyTerry(margin=margin, center=center or 0.0))(batch), batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, yours in zip(*(torch.autograd.grad(loss, batch[SCORES]) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-5, atol=1e-5)


def trl(center: float | None) -> Any:
    """TRL's trainer, without what it does when it is made."""
    pytest.importorskip("trl", reason="compares with TRL, which only the extra `bench` installs")
    from trl.trainer.reward_trainer import RewardTrainer

    made: Any = object.__new__(RewardTrainer)
    alone: Any = {"gather": lambda value: value, "gather_for_metrics": lambda value: value}
    vars(made).update(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=center),
        accelerator=SimpleNamespace(**alone),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    return made

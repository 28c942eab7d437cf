"""The Bradley-Terry loss against numbers worked by hand, plain floats and a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import CHOSEN, MARGIN, REJECTED, SCORES, Batch
from truing.testing import check_spec
from truing_reward.losses import bradley_terry
from truing_reward.plugin import BradleyTerry
from truing_tensor.testing import check_loss


def batch_of(scores: list[float], pairs: list[tuple[int, int]], margins: list[float] | None = None) -> Batch:
    return Batch(
        {
            SCORES: torch.tensor(scores, dtype=torch.float64, requires_grad=True),
            CHOSEN: torch.tensor([better for better, _ in pairs]),
            REJECTED: torch.tensor([worse for _, worse in pairs]),
            MARGIN: torch.tensor(margins or [0.0] * len(pairs), dtype=torch.float64),
        }
    )


def test_one_pair_is_the_number_worked_by_hand_and_its_gradient_pushes_the_two_apart() -> None:
    batch = batch_of([1.5, 0.5], [(0, 1)])
    value = bradley_terry(batch, label_smoothing=0.0, margin=False, center=0.0)
    assert float(value.terms["bradley-terry"].total.detach()) == pytest.approx(
        0.31326168751822286, abs=1e-12
    )  # log(1 + e^-1)
    [found] = torch.autograd.grad(value.terms["bradley-terry"].total, batch[SCORES])
    slope = 0.2689414213699951  # sigmoid(-1)
    torch.testing.assert_close(found, torch.tensor([-slope, slope], dtype=torch.float64))
    assert float(value.metrics["accuracy"].total) == 1


scores = st.lists(st.floats(-5, 5), min_size=2, max_size=6)


@given(scores, st.data(), st.floats(0, 0.49), st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_it_is_the_formula_in_plain_floats(
    drawn: list[float], data: st.DataObject, smoothing: float, weight: float
) -> None:
    index = st.integers(0, len(drawn) - 1)
    pairs = data.draw(st.lists(st.tuples(index, index), min_size=1, max_size=5))
    margins = data.draw(st.lists(st.floats(0, 2), min_size=len(pairs), max_size=len(pairs)))
    value = bradley_terry(batch_of(drawn, pairs, margins), label_smoothing=smoothing, margin=True, center=weight)
    wins = [drawn[better] - drawn[worse] - margin for (better, worse), margin in zip(pairs, margins, strict=True)]
    expected = sum((1 - smoothing) * math.log1p(math.exp(-d)) + smoothing * math.log1p(math.exp(d)) for d in wins)
    assert float(value.terms["bradley-terry"].total.detach()) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    if weight:
        assert value.terms["center"].weight == weight
        squares = sum((drawn[better] + drawn[worse]) ** 2 for better, worse in pairs)
        assert float(value.terms["center"].total.detach()) == pytest.approx(squares, rel=1e-10, abs=1e-10)


def test_rewards_that_win_three_times_in_four_end_log_three_apart() -> None:
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)
    base = batch_of([0.0, 0.0], [(0, 1), (0, 1), (0, 1), (1, 0)])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = bradley_terry(base.put(SCORES, logits), label_smoothing=0.0, margin=False, center=0.1)
        total = torch.stack([term.weight * term.total for term in value.terms.values()]).sum()
        total.backward()
        return total.detach()

    optimizer.step(closure)
    logits = logits.detach()
    assert float(logits[0] - logits[1]) == pytest.approx(math.log(3), abs=1e-4)
    assert float(logits.sum()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("spec", [BradleyTerry(), BradleyTerry(label_smoothing=0.1, margin=True, center=0.01)])
def test_it_keeps_the_promises_of_a_loss(spec: BradleyTerry) -> None:
    check_spec(BradleyTerry)
    check_loss(spec)

"""Losses against numbers worked by hand, and against finite differences.

Every preference loss is held against its paper in tests/preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, SEQ, Batch
from truing.stage import Loss
from truing_policy.losses import sft
from truing_preference.plugin import Dpo


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair_batch(
    policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], pairs: Sequence[tuple[int, int]]
) -> Batch:
    lengths = [len(tokens) for tokens in policy]
    return Batch(
        {
            LOGPROBS: tensor(*(value for tokens in policy for value in tokens)).requires_grad_(),
            LOGPROBS_REF: tensor(*(value for tokens in reference for value in tokens)),
            SEQ: torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
            CHOSEN: torch.tensor([better for better, _ in pairs]),
            REJECTED: torch.tensor([worse for _, worse in pairs]),
        }
    )


def dpo(beta: float, label_smoothing: float = 0.0) -> Loss:
    nobody: Any = None
    return Dpo(beta=beta, label_smoothing=label_smoothing).build(nobody)


def number(value: Tensor) -> float:
    return float(value.detach())


def gradient(loss: Loss, batch: Batch, term: str) -> Tensor:
    [found] = torch.autograd.grad(loss(batch).terms[term].total, batch[LOGPROBS])
    return found


# One pair. Policy: chosen -1 - 2 = -3, rejected -4; reference: chosen -2 - 2 = -4, rejected -3.
# Log-ratios 1 and -1; with beta 0.5 rewards 0.5 and -0.5, margin 1.
WORKED = pair_batch([[-1.0, -2.0], [-4.0]], [[-2.0, -2.0], [-3.0]], [(0, 1)])


def test_dpo_of_one_pair_is_the_number_worked_by_hand() -> None:
    value = dpo(0.5)(WORKED)
    assert number(value.terms["dpo"].total) == pytest.approx(0.31326168751822286, abs=1e-12)  # log(1 + e^-1)
    assert value.terms["dpo"].per == "pair"
    assert {name: number(term.total) for name, term in value.metrics.items() if "|" not in name} == pytest.approx(
        {
            "accuracy": 1.0,
            "margin": 1.0,
            "reward/chosen": 0.5,
            "reward/rejected": -0.5,
            "logprob/chosen": -3.0,
            "logprob/rejected": -4.0,
            "length/difference": 1.0,
            "kl": 0.5,
        }
    )


def test_dpos_gradient_is_minus_beta_sigmoid_of_minus_the_margin_on_every_chosen_token() -> None:
    # Section 4 of the paper: the weight is sigmoid(reward_l - reward_w) = sigmoid(-1) = 0.26894142137.
    slope = 0.5 * 0.2689414213699951
    found = gradient(dpo(0.5), WORKED, "dpo")
    torch.testing.assert_close(found, tensor(-slope, -slope, slope), rtol=0, atol=1e-12)


def test_smoothed_dpo_mixes_both_labels() -> None:
    value = dpo(0.5, 0.1)(WORKED)
    expected = 0.9 * 0.31326168751822286 + 0.1 * 1.3132616875182228
    assert number(value.terms["dpo"].total) == pytest.approx(expected, abs=1e-12)


def test_smoothing_of_one_half_teaches_nothing_at_margin_zero() -> None:
    batch = pair_batch([[-1.0], [-2.0]], [[-1.0], [-2.0]], [(0, 1)])
    found = gradient(dpo(0.3, 0.5), batch, "dpo")
    torch.testing.assert_close(found, torch.zeros(2, dtype=torch.float64))


def test_a_tie_counts_as_half_right() -> None:
    batch = pair_batch([[-1.0], [-2.0]], [[-1.0], [-2.0]], [(0, 1)])
    assert number(dpo(0.1)(batch).metrics["accuracy"].total) == 0.5


def test_sft_of_three_tokens_is_their_mean_with_a_count_of_tokens() -> None:
    batch = Batch({LOGPROBS: tensor(-1.0, -2.0, -4.5).requires_grad_()})
    term = sft(batch).terms["nll"]
    assert number(term.total) == 7.5
    assert term.per == "token"
    torch.testing.assert_close(gradient(sft, batch, "nll"), tensor(-1.0, -1.0, -1.0))


values = st.floats(-6.0, -0.01)
sequences = st.lists(st.lists(st.tuples(values, values), min_size=1, max_size=5), min_size=2, max_size=5)


@given(sequences, st.floats(0.01, 2.0), st.floats(0.0, 0.5))
@settings(deadline=None, max_examples=25)
def test_dpos_gradient_agrees_with_finite_differences(
    drawn: list[list[tuple[float, float]]], beta: float, smoothing: float
) -> None:
    batch = pair_batch([[p for p, _ in t] for t in drawn], [[r for _, r in t] for t in drawn], [(0, 1), (1, 0)])

    def total(logprobs: Tensor) -> Tensor:
        return dpo(beta, smoothing)(batch.put(LOGPROBS, logprobs)).terms["dpo"].total

    assert torch.autograd.gradcheck(total, batch[LOGPROBS].detach().requires_grad_(), eps=1e-6, atol=1e-7)

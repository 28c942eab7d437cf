"""Losses against numbers worked by hand, an independent writing of the formula, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, SEQ, Batch
from truing.stage import Loss
from truing_policy.losses import sft
from truing_preference.losses import dpo


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


def number(value: Tensor) -> float:
    return float(value.detach())


def gradient(loss: Loss, batch: Batch, term: str) -> Tensor:
    [found] = torch.autograd.grad(loss(batch).terms[term].total, batch[LOGPROBS])
    return found


# One pair. Policy: chosen -1 - 2 = -3, rejected -4; reference: chosen -2 - 2 = -4, rejected -3.
# Log-ratios 1 and -1; with beta 0.5 rewards 0.5 and -0.5, margin 1.
WORKED = pair_batch([[-1.0, -2.0], [-4.0]], [[-2.0, -2.0], [-3.0]], [(0, 1)])


def test_dpo_of_one_pair_is_the_number_worked_by_hand() -> None:
    value = dpo(WORKED, beta=0.5, label_smoothing=0.0)
    assert number(value.terms["dpo"].total) == pytest.approx(0.31326168751822286, abs=1e-12)  # log(1 + e^-1)
    assert value.terms["dpo"].per == "pair"
    assert {name: number(term.total) for name, term in value.metrics.items()} == pytest.approx(
        {
            "accuracy": 1.0,
            "margin": 1.0,
            "reward/chosen": 0.5,
            "reward/rejected": -0.5,
            "logprob/chosen": -3.0,
            "logprob/rejected": -4.0,
        }
    )


def test_dpos_gradient_is_minus_beta_sigmoid_of_minus_the_margin_on_every_chosen_token() -> None:
    # Section 4 of the paper: the weight is sigmoid(reward_l - reward_w) = sigmoid(-1) = 0.26894142137.
    slope = 0.5 * 0.2689414213699951
    found = gradient(lambda batch: dpo(batch, beta=0.5, label_smoothing=0.0), WORKED, "dpo")
    torch.testing.assert_close(found, tensor(-slope, -slope, slope), rtol=0, atol=1e-12)


def test_smoothed_dpo_mixes_both_labels() -> None:
    value = dpo(WORKED, beta=0.5, label_smoothing=0.1)
    expected = 0.9 * 0.31326168751822286 + 0.1 * 1.3132616875182228
    assert number(value.terms["dpo"].total) == pytest.approx(expected, abs=1e-12)


def test_smoothing_of_one_half_teaches_nothing_at_margin_zero() -> None:
    batch = pair_batch([[-1.0], [-2.0]], [[-1.0], [-2.0]], [(0, 1)])
    found = gradient(lambda b: dpo(b, beta=0.3, label_smoothing=0.5), batch, "dpo")
    torch.testing.assert_close(found, torch.zeros(2, dtype=torch.float64))


def test_a_tie_counts_as_half_right() -> None:
    batch = pair_batch([[-1.0], [-2.0]], [[-1.0], [-2.0]], [(0, 1)])
    assert number(dpo(batch, beta=0.1, label_smoothing=0.0).metrics["accuracy"].total) == 0.5


def test_sft_of_three_tokens_is_their_mean_with_a_count_of_tokens() -> None:
    batch = Batch({LOGPROBS: tensor(-1.0, -2.0, -4.5).requires_grad_()})
    term = sft(batch).terms["nll"]
    assert number(term.total) == 7.5
    assert term.per == "token"
    torch.testing.assert_close(gradient(sft, batch, "nll"), tensor(-1.0, -1.0, -1.0))


def dpo_by_the_paper(batch: Batch, beta: float, smoothing: float) -> float:
    """Equation 7 in plain floats, one pair at a time, without any tensor arithmetic of the project."""
    total = 0.0
    rows = list(zip(batch[SEQ].tolist(), batch[LOGPROBS].tolist(), batch[LOGPROBS_REF].tolist(), strict=True))
    for better, worse in zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), strict=True):
        ratio = {side: sum(p - r for seq, p, r in rows if seq == side) for side in (better, worse)}
        margin = beta * (ratio[better] - ratio[worse])
        total += (1 - smoothing) * math.log1p(math.exp(-margin)) + smoothing * math.log1p(math.exp(margin))
    return total


values = st.floats(-6.0, -0.01)
sequences = st.lists(st.lists(st.tuples(values, values), min_size=1, max_size=5), min_size=2, max_size=5)


@given(sequences, st.data(), st.floats(0.01, 2.0), st.floats(0.0, 0.5))
@settings(deadline=None, max_examples=100)
def test_dpo_is_the_papers_formula_for_any_pairs(
    drawn: list[list[tuple[float, float]]], data: st.DataObject, beta: float, smoothing: float
) -> None:
    index = st.integers(0, len(drawn) - 1)
    pairs = data.draw(st.lists(st.tuples(index, index).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=6))
    batch = pair_batch(
        [[p for p, _ in tokens] for tokens in drawn], [[r for _, r in tokens] for tokens in drawn], pairs
    )
    total = number(dpo(batch, beta=beta, label_smoothing=smoothing).terms["dpo"].total)
    assert total == pytest.approx(dpo_by_the_paper(batch, beta, smoothing), rel=1e-10, abs=1e-10)


@given(sequences, st.floats(0.01, 2.0), st.floats(0.0, 0.5))
@settings(deadline=None, max_examples=25)
def test_dpos_gradient_agrees_with_finite_differences(
    drawn: list[list[tuple[float, float]]], beta: float, smoothing: float
) -> None:
    batch = pair_batch([[p for p, _ in t] for t in drawn], [[r for _, r in t] for t in drawn], [(0, 1), (1, 0)])

    def total(logprobs: Tensor) -> Tensor:
        return dpo(batch.put(LOGPROBS, logprobs), beta=beta, label_smoothing=smoothing).terms["dpo"].total

    assert torch.autograd.gradcheck(total, batch[LOGPROBS].detach().requires_grad_(), eps=1e-6, atol=1e-7)

"""GRPO and group-relative advantages against numbers worked by hand, plain floats, and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import ADVANTAGES, LOGPROBS, LOGPROBS_OLD, LOGPROBS_REF, LOGPROBS_SAMPLED, SEQ, Batch
from truing.testing import check_spec
from truing_policy.advantages import group_advantage
from truing_policy.losses import grpo
from truing_policy.plugin import GroupRelative, Grpo
from truing_tensor.testing import check_loss

OPTIONS: dict[str, Any] = {"clip": 0.2, "clip_high": None, "kl": 0.0, "mean": "sequence", "anchor": "model"}


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rollouts(sequences: list[list[tuple[float, float, float, float]]]) -> Batch:
    """Sequences of (log pi, log old, log ref, advantage)."""
    flat = [token for sequence in sequences for token in sequence]
    columns = [tensor([token[at] for token in flat]) for at in range(4)]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return Batch(
        {
            LOGPROBS: columns[0].requires_grad_(),
            LOGPROBS_OLD: columns[1],
            LOGPROBS_SAMPLED: columns[1] + 1,
            LOGPROBS_REF: columns[2],
            ADVANTAGES: columns[3],
            SEQ: torch.arange(len(sequences)).repeat_interleave(lengths),
        }
    )


def test_grpo_of_two_rollouts_is_the_number_worked_by_hand() -> None:
    # Ratios: 1.5 with advantage 1 is clipped to 1.2; 0.5 with advantage -1 to 0.8; 1 stays.
    one = [(math.log(1.5) - 1, -1.0, -1.0, 1.0), (-2.0, -2.0, -2.0, 1.0)]
    other = [(math.log(0.5) - 1, -1.0, -1.0, -1.0)]
    value = grpo(rollouts([one, other]), **OPTIONS)
    term = value.terms["policy"]
    assert float(term.total.detach()) == pytest.approx(-(1.2 + 1.0) / 2 + 0.8, abs=1e-12)
    assert term.per == "seq"
    assert float(value.metrics["clipped"].total) == 2


def test_a_clipped_token_teaches_nothing_and_the_others_their_ratio_times_advantage() -> None:
    batch = rollouts([[(math.log(1.5) - 1, -1.0, 0, 1.0), (math.log(1.5) - 1, -1.0, 0, -1.0), (-2.0, -2.0, 0, 0.5)]])
    [found] = torch.autograd.grad(grpo(batch, **{**OPTIONS, "mean": "token"}).terms["policy"].total, batch[LOGPROBS])
    torch.testing.assert_close(found, tensor([0.0, 1.5, -0.5]))


token = st.tuples(st.floats(-4, -0.1), st.floats(-4, -0.1), st.floats(-4, -0.1), st.floats(-2, 2))
some_rollouts = st.lists(st.lists(token, min_size=1, max_size=4), min_size=1, max_size=4)


@given(
    some_rollouts, st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.floats(0, 1), st.sampled_from(["sequence", "token"])
)
@settings(deadline=None, max_examples=150)
def test_grpo_is_the_papers_formula_in_plain_floats(
    sequences: list[list[tuple[float, float, float, float]]], clip: float, high: float, kl: float, mean: str
) -> None:
    value = grpo(rollouts(sequences), clip=clip, clip_high=high, kl=kl, mean=mean, anchor="model")  # type: ignore[arg-type]
    gains: list[list[float]] = []
    divergences: list[list[float]] = []
    for sequence in sequences:
        ratios = [math.exp(pi - old) for pi, old, _, _ in sequence]
        bounded = [min(max(ratio, 1 - clip), 1 + high) for ratio in ratios]
        gains.append([min(r * a, b * a) for r, b, (_, _, _, a) in zip(ratios, bounded, sequence, strict=True)])
        divergences.append([math.exp(ref - pi) - (ref - pi) - 1 for pi, _, ref, _ in sequence])

    def total(values: list[list[float]]) -> float:
        return sum(sum(some) / (len(some) if mean == "sequence" else 1) for some in values)

    assert float(value.terms["policy"].total.detach()) == pytest.approx(-total(gains), rel=1e-10, abs=1e-10)
    assert value.terms["policy"].per == ("seq" if mean == "sequence" else "token")
    if kl:
        assert value.terms["kl"].weight == kl
        assert float(value.terms["kl"].total.detach()) == pytest.approx(total(divergences), rel=1e-10, abs=1e-10)


def test_the_anchor_is_the_one_that_was_named() -> None:
    batch = rollouts([[(-1.0, -1.0, 0, 1.0)]])
    assert float(grpo(batch, **{**OPTIONS, "anchor": "sampling"}).metrics["ratio"].total) == pytest.approx(math.exp(-1))
    assert LOGPROBS_SAMPLED in Grpo(anchor="sampling").requires()
    assert LOGPROBS_OLD in Grpo().requires()
    assert LOGPROBS_REF not in Grpo().requires()
    assert LOGPROBS_REF in Grpo(kl=0.1).requires()


@pytest.mark.parametrize("spec", [Grpo(), Grpo(kl=0.1, mean="token", clip_high=0.3, anchor="sampling")])
def test_grpo_keeps_the_promises_of_a_loss(spec: Grpo) -> None:
    check_spec(Grpo)
    check_loss(spec)


def test_group_advantages_are_scores_in_units_of_their_groups_deviation() -> None:
    scores, group = tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(group_advantage(scores, group, scale=True), tensor([-1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(group_advantage(scores, group, scale=False), tensor([-1.0, 1.0, 0.0, 0.0]))
    wide = tensor([0.0, 4.0, 2.0])
    expected = (wide - 2) / wide.std(correction=0)
    torch.testing.assert_close(group_advantage(wide, torch.tensor([0, 0, 0]), scale=True), expected)


@given(st.floats(-1e3, 1e3), st.integers(1, 9))
@settings(deadline=None, max_examples=100)
def test_a_group_whose_scores_are_equal_teaches_nothing(score: float, size: int) -> None:
    scores = torch.full((size,), score)
    assert not group_advantage(scores, torch.zeros(size, dtype=torch.int64), scale=True).any()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=100)
def test_the_advantages_of_a_group_sum_to_nothing(drawn: list[tuple[int, float]]) -> None:
    group, scores = torch.tensor([at for at, _ in drawn]), tensor([score for _, score in drawn])
    for scale in (True, False):
        sums = torch.zeros(4, dtype=torch.float64).index_add(0, group, group_advantage(scores, group, scale=scale))
        assert float(sums.abs().max()) < 1e-6


def test_the_advantage_spec_keeps_its_promises() -> None:
    check_spec(GroupRelative)

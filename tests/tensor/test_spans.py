"""Attention block by block against attention with a dense mask, and the plans of a row against what may be seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from truing_tensor import spans
from truing_tensor.spans import BlockAttention, Plan, joined, row_plan

Groups = list[tuple[int, list[int]]]


def groups() -> st.SearchStrategy[Groups]:
    sizes = st.lists(st.integers(1, 7), min_size=1, max_size=4)
    return st.lists(st.tuples(st.integers(1, 7), sizes), min_size=1, max_size=4)


def dense(plan: Plan) -> Tensor:
    """Who sees whom [query, key], asked one by one."""
    asking, keys = torch.arange(len(plan.rows)), torch.arange(len(plan.seq))
    return plan.sees(asking[:, None], keys[None, :])


def by_mask(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
    """Attention [query, head * size] as the textbook has it."""
    times = query.shape[1] // key.shape[1]
    key, value = (side.repeat_interleave(times, 1).transpose(0, 1) for side in (key, value))
    scores = (scale * query.transpose(0, 1) @ key.transpose(1, 2)).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


def sides(plan: Plan, heads: int, kv_heads: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(len(plan.rows), heads, 4), (len(plan.seq), kv_heads, 4), (len(plan.seq), kv_heads, 4)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("kept", [0, 2**21])
@pytest.mark.parametrize("queries", [2, 256])
@given(groups(), st.sampled_from([(2, 2), (4, 2), (4, 1)]))
@settings(deadline=None, max_examples=25)
def test_blocks_give_the_attention_and_the_gradients_of_a_dense_mask(
    queries: int, kept: int, drawn: Groups, heads: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "QUERIES", queries)
        patch.setattr(spans, "_KEPT", kept)
        row = row_plan(drawn)
        for plan in (row.all, row.predictors, row.ends(), joined([row.predictors, row.ends()])):
            inputs = sides(plan, *heads)
            ours = BlockAttention.apply(*inputs, 0.37, plan.blocks)
            expected = by_mask(*inputs, 0.37, dense(plan))
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
            weight = torch.randn_like(ours)
            found, wanted = (torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, expected))
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@given(groups())
@settings(deadline=None, max_examples=50)
def test_every_query_is_in_one_block_and_no_block_computes_a_key_that_none_of_its_queries_sees(
    drawn: Groups,
) -> None:
    row = row_plan(drawn)
    for plan in (row.all, row.predictors, row.ends()):
        asked = [query for block in plan.blocks for query in range(*block.queries)]
        assert sorted(asked) == list(range(len(plan.rows)))
        mask = dense(plan)
        for block in plan.blocks:
            seen = mask[slice(*block.queries)]
            assert seen[:, slice(*block.prefix)].all()
            if block.own[1] > block.own[0]:
                assert seen[-1, slice(*block.own)].all()


@given(groups(), st.data())
@settings(deadline=None, max_examples=50)
def test_a_plan_of_some_tokens_asks_where_they_lie(drawn: Groups, data: st.DataObject) -> None:
    row = row_plan(drawn)
    total = sum(sum(answers) for _, answers in drawn)
    tokens = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    starts: list[int] = []
    at = 0
    for prompt, answers in drawn:
        at += prompt
        for answer in answers:
            starts += range(at, at + answer)
            at += answer
    assert row.at(tokens).rows.tolist() == [starts[token] for token in tokens]
    sizes = [answer for _, answers in drawn for answer in answers]
    last = [sum(sizes[: number + 1]) - 1 for number in range(len(sizes))]
    assert row.ends().rows.tolist() == [starts[token] for token in last]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_a_gpu_says_the_same_as_the_blocks_of_a_cpu() -> None:
    row = row_plan([(5, [3, 1, 4]), (130, [2]), (1, [1, 1])])
    for plan in (row.all, row.predictors):
        query, key, value = (side.detach().float() for side in sides(plan, 4, 2))
        shaped: Any = [side.transpose(0, 1)[None] for side in (query, key, value)]
        flexed = flex_attention(*shaped, block_mask=plan.mask, scale=0.5, enable_gqa=True)
        ours = BlockAttention.apply(query, key, value, 0.5, plan.blocks)
        torch.testing.assert_close(flexed[0].transpose(0, 1).flatten(1), ours, rtol=1e-5, atol=1e-5)

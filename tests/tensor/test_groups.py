"""Batches cut and joined along their groups, and sums over segments."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from truing.fields import (
    ADVANTAGES,
    ANNOTATOR,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS,
    MARGIN,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    REJECTED,
    SCORES,
    SEQ,
    STEP_END,
    STEP_SEQ,
    TOKENS,
    Batch,
    Field,
    Group,
)
from truing_tensor.groups import batch_of, count, join, take
from truing_tensor.segments import segment_mean, segment_sum

BEST: Field[Tensor] = Field("best", "group", "int64", into="seq")
NEAREST: Field[Tensor] = Field("nearest", "seq", "int64", into="group")
TEMPERATURE: Field[float] = Field("temperature")

QUICK = settings(deadline=None, max_examples=60, database=None)


@st.composite
def groups(draw: st.DrawFn, number: int) -> Group:
    """A group with pairs among its completions and an extra field along every dim text can have."""
    size = draw(st.integers(1, 4))
    places = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    pairs = draw(st.lists(places, max_size=3))
    extra: dict[Field[Any], list[Any]] = {
        SCORES: [float(10 * number + at) for at in range(size)],
        MARGIN: [float(100 * number + at) for at in range(len(pairs))],
        ANNOTATOR: [f"{number}.{at}" for at in range(len(pairs))],
        BEST: [draw(st.integers(0, size - 1))],
    }
    completions: list[Any] = [f"completion {number}.{at}" for at in range(size)]
    return Group(id=f"g{number}", prompt=f"prompt {number}", completions=completions, pairs=pairs, extra=extra)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A batch as a model sees it: tokens, prompt tokens, steps and pairs, at least one of each somewhere."""
    size = draw(st.integers(1, 5))
    made = [draw(groups(number)) for number in range(size)]
    if not any(group.pairs for group in made):
        made[0] = Group(id="g0", prompt="p", completions=["a", "b"], pairs=[(1, 0)], extra={**made[0].extra, **_PAIR})
    batch = batch_of(made)
    lengths = torch.tensor([draw(st.integers(0, 4)) for _ in range(count(batch, "seq"))])
    prompts = torch.tensor([draw(st.integers(1, 3)) for _ in range(size)])
    tokens = int(lengths.sum())
    ends = lengths.cumsum(0) - 1
    with_steps = torch.nonzero(lengths > 0).flatten()
    return batch.put_all(
        {
            TEMPERATURE: 0.7,
            SEQ: torch.repeat_interleave(torch.arange(len(lengths)), lengths),
            TOKENS: torch.arange(tokens),
            LOGPROBS: torch.arange(tokens, dtype=torch.float32),
            PROMPT_GROUP: torch.repeat_interleave(torch.arange(size), prompts),
            PROMPT_TOKENS: torch.arange(int(prompts.sum())) + 1000,
            STEP_SEQ: with_steps,
            STEP_END: ends[with_steps],
        }
    )


_PAIR: dict[Field[Any], list[Any]] = {SCORES: [0.0, 1.0], MARGIN: [0.0], ANNOTATOR: ["0.0"], BEST: [1]}


def told(batch: Batch) -> dict[str, Any]:
    """What a batch says of every group, without any position: the same however groups are numbered."""
    found: dict[str, Any] = {}
    for at, name in enumerate(batch[IDS]):
        inside = torch.nonzero(batch[GROUP] == at).flatten().tolist()
        texts = batch[COMPLETIONS]
        found[name] = {
            "prompt": (batch[PROMPTS][at], batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == at].tolist()),
            "best": texts[int(batch[BEST][at])],
            "completions": [
                (texts[seq], float(batch[SCORES][seq]), batch[TOKENS][batch[SEQ] == seq].tolist()) for seq in inside
            ],
            "pairs": [
                (texts[int(better)], texts[int(worse)], float(margin), annotator)
                for better, worse, margin, annotator in zip(
                    batch[CHOSEN], batch[REJECTED], batch[MARGIN], batch[ANNOTATOR], strict=True
                )
                if int(better) in inside
            ],
            "steps": [
                (texts[int(seq)], int(batch[TOKENS][end]))
                for seq, end in zip(batch[STEP_SEQ], batch[STEP_END], strict=True)
                if int(seq) in inside
            ],
        }
    return found


def same(one: Batch, other: Batch) -> bool:
    """Are two batches equal, field by field, dtypes included?"""
    return set(one) == set(other) and all(
        torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype
        if isinstance(one[key], Tensor)
        else one[key] == other[key]
        for key in one
    )


@QUICK
@given(batches(), st.data())
def test_what_is_taken_says_of_its_groups_what_the_whole_said(batch: Batch, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(batch[IDS]))))
    kept = order[: data.draw(st.integers(0, len(order)))]
    part = take(batch, kept)
    assert part[IDS] == [batch[IDS][at] for at in kept]
    whole = told(batch)
    assert told(part) == {name: whole[name] for name in part[IDS]}


@QUICK
@given(batches())
def test_taking_every_group_changes_nothing(batch: Batch) -> None:
    assert same(take(batch, range(len(batch[IDS]))), batch)


@QUICK
@given(batches(), st.data())
def test_pieces_joined_again_are_the_batch(batch: Batch, data: st.DataObject) -> None:
    size = len(batch[IDS])
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=3))})
    pieces = [take(batch, range(start, end)) for start, end in pairwise(cuts)]
    assert same(join(pieces), batch)


@QUICK
@given(batches(), st.data())
def test_a_permutation_taken_back_is_the_batch(batch: Batch, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(batch[IDS]))))
    back = sorted(range(len(order)), key=order.__getitem__)
    assert same(take(take(batch, order), back), batch)


@QUICK
@given(batches())
def test_positions_stay_inside_the_dim_they_point_into(batch: Batch) -> None:
    for part in [take(batch, [at]) for at in range(len(batch[IDS]))]:
        for key in part:
            if key.into and len(part[key]):
                assert int(part[key].min()) >= 0
                assert int(part[key].max()) < count(part, key.into)


@QUICK
@given(st.tuples(*(groups(number).filter(lambda group: bool(group.pairs)) for number in range(3))))
def test_a_batch_of_groups_is_the_join_of_batches_of_one(made: tuple[Group, ...]) -> None:
    assert same(batch_of(made), join([batch_of([group]) for group in made]))


def test_groups_without_pairs_make_no_pairs() -> None:
    batch = batch_of([Group(id="a", prompt="p", completions=["x"]), Group(id="b", prompt="p", completions=["y"])])
    assert CHOSEN not in batch
    assert REJECTED not in batch
    assert count(batch, "pair") == 0
    assert batch[GROUP].tolist() == [0, 1]


def test_positions_of_an_extra_field_are_counted_within_its_group() -> None:
    made = [Group(id=str(at), prompt="p", completions=["x", "y"], extra={BEST: [1], NEAREST: [0, 0]}) for at in (0, 1)]
    batch = batch_of(made)
    assert batch[BEST].tolist() == [1, 3]
    assert batch[NEAREST].tolist() == [0, 0, 1, 1]


def test_extra_entries_that_belong_to_another_group_are_refused() -> None:
    two = Group(id="two", prompt="p", completions=["x"], extra={SCORES: [1.0, 2.0]})
    none = Group(id="none", prompt="p", completions=["y"])
    with pytest.raises(ValueError, match="`scores` of 'two' has 2 entries along seq, where there are 1"):
        batch_of([two, none])


def test_an_extra_field_along_tokens_is_refused_before_there_are_any() -> None:
    with pytest.raises(ValueError, match="`advantages` runs along 'token'"):
        batch_of([Group(id="a", prompt="p", completions=["x"], extra={ADVANTAGES: [1.0]})])


def test_batches_of_different_fields_are_not_joined() -> None:
    batch = batch_of([Group(id="a", prompt="p", completions=["x"])])
    with pytest.raises(ValueError, match="different fields"):
        join([batch, batch.put(TEMPERATURE, 1.0)])


def test_a_field_without_dims_is_kept_when_equal_and_refused_when_not() -> None:
    batch = batch_of([Group(id="a", prompt="p", completions=["x"])])
    warm, cold = batch.put(TEMPERATURE, 1.0), batch.put(TEMPERATURE, 0.1)
    assert join([warm, warm])[TEMPERATURE] == 1.0
    with pytest.raises(ValueError, match="differ in `temperature`"):
        join([warm, cold])


def test_positions_are_not_joined_when_what_they_point_into_cannot_be_counted() -> None:
    batch = Batch({GROUP: torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="without `ids`"):
        join([batch, batch])


segments = st.lists(st.tuples(st.integers(0, 4), st.integers(-50, 50)), max_size=30)


@QUICK
@given(segments)
def test_segment_sums_and_means_are_those_of_each_segment_alone(entries: list[tuple[int, int]]) -> None:
    segment = torch.tensor([at for at, _ in entries], dtype=torch.int64)
    values = torch.tensor([float(value) for _, value in entries], dtype=torch.float64)
    sums, means = segment_sum(values, segment, 5), segment_mean(values, segment, 5)
    for at in range(5):
        own = [value for place, value in entries if place == at]
        assert sums[at].item() == sum(own)
        assert means[at].item() == pytest.approx(sum(own) / len(own) if own else 0.0)


def test_the_gradient_of_a_segment_mean_is_one_over_the_length_of_the_segment() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    segment_mean(values, torch.tensor([0, 0, 1]), 2).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.5, 1.0]


def test_a_mean_over_many_bfloat16_tokens_counts_all_of_them() -> None:
    values = torch.zeros(1000, dtype=torch.bfloat16)
    values[0] = 1000.0
    assert segment_mean(values, torch.zeros(1000, dtype=torch.int64), 1).item() == 1.0

"""Pairs of one prompt in one group: each pair once, each completion computed for all of its pairs there."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, MARGIN, REJECTED, SOFT, Batch, Group
from truing.run import Run
from truing_data.files import jsonl
from truing_data.forms import gathered
from truing_data.mapping import MappedSource
from truing_data.plugin import Jsonl

QUICK = settings(deadline=None, max_examples=80, database=None)


def pair(number: int, prompt: int, better: int, worse: int) -> Group:
    return Group(
        id=f"p{number}",
        prompt=f"prompt {prompt}",
        completions=[f"answer {better}", f"answer {worse}"],
        pairs=[(0, 1)],
        extra={MARGIN: [float(number)]},
    )


def said(groups: list[Group]) -> Counter[tuple[object, object, object, float]]:
    """Who was better than whom, to which prompt, with which margin."""
    return Counter(
        (group.prompt, group.completions[better], group.completions[worse], margin)
        for group in groups
        for (better, worse), margin in zip(group.pairs, group.extra[MARGIN], strict=True)
    )


duels = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=80)


@QUICK
@given(duels=duels, size=st.integers(2, 12))
def test_every_pair_is_said_once_and_no_group_holds_more_completions_than_asked(
    duels: list[tuple[int, int, int]], size: int
) -> None:
    before = [pair(at, *duel) for at, duel in enumerate(duels) if duel[1] != duel[2]]
    after = gathered(before, size)
    assert said(after) == said(before)
    assert all(len(group.completions) <= size for group in after)
    assert all(len(set(map(str, group.completions))) == len(group.completions) for group in after)
    assert len({group.id for group in after}) == len(after)


def test_a_tournament_computes_a_completion_a_few_times_instead_of_once_a_pair() -> None:
    before = [pair(at, 0, *duel) for at, duel in enumerate(combinations(range(32), 2))]
    after = gathered(before, 16)
    assert sum(len(group.completions) for group in before) == 32 * 31
    # Four halves of eight, each two of which meet.
    assert len(after) == 6
    assert sum(len(group.completions) for group in after) == 6 * 16
    assert gathered(before, 32)[0].completions == [f"answer {at}" for at in range(32)]


def test_prompts_do_not_mix() -> None:
    after = gathered([pair(0, 0, 1, 2), pair(1, 1, 1, 2), pair(2, 0, 2, 3)], 8)
    assert [(group.id, len(group.completions)) for group in after] == [("p0+1", 3), ("p1", 2)]


def test_votes_become_soft_labels_of_the_pairs_of_a_group(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "a": "x", "b": "y", "votes": ["a", "a", "b"]},
        {"prompt": "Why?", "a": "z", "b": "x", "votes": ["b", "b"]},
    ]
    path = tmp_path / "duels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = Jsonl(path=str(path), first="a", second="b", votes="votes", verdict="share", together=4, chat=False)
    batch = opened(spec)
    assert batch[IDS] == ["duels.jsonl:1+1"]
    assert batch[GROUP].tolist() == [0, 0, 0]
    assert batch[COMPLETIONS] == ["x", "y", "z"]
    assert (batch[CHOSEN].tolist(), batch[REJECTED].tolist()) == ([0, 0], [1, 2])
    assert batch[SOFT].tolist() == pytest.approx([2 / 3, 1.0])


def opened(spec: Jsonl) -> Batch:
    source = jsonl(spec, Run("t", Path(), 0, Bus()))

    async def first() -> Batch:
        await source.open()
        return await anext(source.batches(8, 0))

    return anyio.run(first)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"together": 4}, "together"),
        ({"together": 4, "chosen": "a", "rejected": "b", "pairs_to_labels": True}, "together"),
        ({"together": 4, "chosen": "a", "rejected": "b", "metadata": ["topic"]}, "metadata"),
    ],
)
def test_what_does_not_go_with_it_is_said(options: dict[str, object], option: str) -> None:
    assert [fault.option for fault in MappedSource(**options).problems()] == [option]  # pyright: ignore[reportArgumentType]

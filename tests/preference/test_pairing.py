"""Pairs out of scored completions."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, REJECTED, SCORES, SOFT, Batch
from truing.run import Run
from truing.testing import check_spec
from truing_preference.plugin import BestAgainstWorst


def paired(scores: list[list[float]], least: float = 0.0, said: list[str] | None = None) -> Batch:
    group = torch.tensor([at for at, some in enumerate(scores) for _ in some], dtype=torch.int64)
    flat = torch.tensor([score for some in scores for score in some])
    texts = said or [f"answer {at}" for at in range(len(flat))]
    batch = Batch({IDS: [f"g{at}" for at in range(len(scores))], GROUP: group, SCORES: flat, COMPLETIONS: texts})
    return BestAgainstWorst(least=least).build(Run("test", Path(), 0, Bus())).estimate(batch)


def test_the_best_of_each_group_meets_its_worst() -> None:
    batch = paired([[0.1, 0.9, 0.5], [3.0, -1.0]])
    assert batch[CHOSEN].tolist() == [1, 3]
    assert batch[REJECTED].tolist() == [0, 4]


def test_a_group_whose_completions_score_alike_is_left_out_and_the_rest_is_counted_anew() -> None:
    batch = paired([[1.0, 1.0], [0.0, 2.0, 1.0]])
    assert batch[IDS] == ["g1"]
    assert (batch[CHOSEN].tolist(), batch[REJECTED].tolist()) == ([1], [0])
    assert paired([[1.0, 1.0]])[IDS] == []


def test_a_group_whose_best_and_worst_say_the_same_is_left_out() -> None:
    said = ["four", "4", "four", "4", "5", "4"]
    assert paired([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5]], said=said)[IDS] == ["g1"]


def test_a_difference_must_be_larger_than_the_least() -> None:
    assert paired([[0.0, 0.5], [0.0, 0.6]], least=0.5)[IDS] == ["g1"]


@given(st.lists(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=5), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_the_chosen_always_scores_higher_within_its_own_group(scores: list[list[float]]) -> None:
    batch = paired(scores)
    assert batch[IDS] == [f"g{at}" for at, some in enumerate(scores) if max(some) > min(some)]
    assert torch.equal(batch[GROUP][batch[CHOSEN]], batch[GROUP][batch[REJECTED]])
    assert batch[GROUP][batch[CHOSEN]].tolist() == list(range(len(batch[IDS])))
    if len(batch[CHOSEN]):
        assert bool((batch[SCORES][batch[CHOSEN]] > batch[SCORES][batch[REJECTED]]).all())


def test_what_was_said_of_other_pairs_is_not_said_of_these() -> None:
    group = torch.tensor([0, 0, 0])
    judged = Batch({IDS: ["g"], GROUP: group, SCORES: torch.tensor([0.2, 0.9, 0.4]), COMPLETIONS: ["a", "b", "c"]})
    judged = judged.put_all({CHOSEN: torch.tensor([1, 1, 2]), REJECTED: torch.tensor([0, 2, 0])})
    judged = judged.put(SOFT, torch.tensor([0.9, 0.8, 0.6]))
    batch = BestAgainstWorst().build(Run("test", Path(), 0, Bus())).estimate(judged)
    assert (batch[CHOSEN].tolist(), batch[REJECTED].tolist()) == ([1], [0])
    assert SOFT not in batch


def test_it_keeps_its_promises() -> None:
    check_spec(BestAgainstWorst)

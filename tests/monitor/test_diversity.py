"""Diversity of completions: every measure against numbers that were worked out by hand, and an independent slow one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.fields import GROUP, LOGPROBS_OLD, SCORE_PARTS, SCORES, SEQ, TOKENS, Batch
from truing.run import Run
from truing_monitor.diversity import distinct, repetition, self_bleu
from truing_monitor.menu_policy import Diversity


def test_distinct_counts_different_ngrams_of_all_texts_together() -> None:
    # 1 2 | 2 1 | 1 2 and 1 2 | 2 3: five 2-grams, three different ones.
    assert distinct([[1, 2, 1, 2], [1, 2, 3]], 2) == pytest.approx(3 / 5)
    assert distinct([[1, 1, 1]], 1) == pytest.approx(1 / 3)
    assert distinct([[7], []], 2) == 1.0


def test_repetition_is_what_a_text_has_said_before() -> None:
    # 1 2 | 2 1 | 1 2 | 2 1: two of four were there before.
    assert repetition([1, 2, 1, 2, 1], 2) == 0.5
    assert repetition([5] * 11, 2) == pytest.approx(0.9)
    assert repetition([1, 2, 3], 2) == 0.0
    assert repetition([1], 2) == 0.0


def test_self_bleu_of_two_texts_by_hand() -> None:
    # a b c d against a b d: 1-grams 3 of 4, 2-grams 1 of 3; as long or longer, so no penalty.
    first, second = self_bleu([[1, 2, 3, 4], [1, 2, 4]], 2)
    assert first == pytest.approx(math.sqrt(3 / 4 * 1 / 3))
    # The other way: 3 of 3, 1 of 2, and shorter than its only reference: exp(1 - 4 / 3).
    assert second == pytest.approx(math.sqrt(1 * 1 / 2) * math.exp(1 - 4 / 3))


def test_an_ngram_counts_no_more_often_than_in_the_reference_that_has_it_most() -> None:
    # Papineni's "the the the": 2 of 3, since one reference has it twice and the other once.
    found = self_bleu([[1, 1, 1], [1, 1, 2], [1, 3, 4]], 1)
    assert found[0] == pytest.approx(2 / 3)


def test_where_nothing_is_found_again_a_tenth_is_counted() -> None:
    assert self_bleu([[1, 2], [3, 4]], 2)[0] == pytest.approx(math.sqrt(0.1 / 2 * 0.1 / 1))


def test_texts_that_are_alike_one_that_is_alone_and_empty_ones() -> None:
    assert self_bleu([[1, 2, 3, 4, 5]] * 3, 4) == pytest.approx([1.0] * 3)
    assert self_bleu([[1, 2, 3]], 4) == [0.0]
    assert self_bleu([[], []], 4) == [1.0, 1.0]
    assert self_bleu([[], [1]], 4)[0] == 0.0
    # Shorter than the order: as many orders as there are.
    assert self_bleu([[1], [1]], 4) == pytest.approx([1.0, 1.0])


def slow_bleu(text: Sequence[int], others: Sequence[Sequence[int]], order: int) -> float:
    """BLEU as its paper writes it."""
    logs: list[float] = []
    for n in range(1, min(order, len(text)) + 1):
        own = Counter(tuple(text[at : at + n]) for at in range(len(text) - n + 1))
        refs = [Counter(tuple(other[at : at + n]) for at in range(len(other) - n + 1)) for other in others]
        clipped = sum(min(count, max(ref[gram] for ref in refs)) for gram, count in own.items())
        logs.append(math.log((clipped or 0.1) / sum(own.values())))
    lengths = sorted(len(other) for other in others)
    nearest = min(lengths, key=lambda length: abs(length - len(text)))
    penalty = 1.0 if len(text) >= nearest else math.exp(1 - nearest / len(text))
    return penalty * math.exp(sum(logs) / len(logs))


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=2, max_size=6), st.integers(1, 4))
@settings(deadline=None, max_examples=200)
def test_one_pass_over_all_is_bleu_against_each_set_of_references(texts: list[list[int]], order: int) -> None:
    slow = [slow_bleu(text, texts[:at] + texts[at + 1 :], order) for at, text in enumerate(texts)]
    assert self_bleu(texts, order) == pytest.approx(slow)


def test_the_scorer_measures_each_prompts_completions_by_themselves() -> None:
    batch = Batch(
        {
            GROUP: torch.tensor([0, 0, 1, 1]),
            TOKENS: torch.tensor([1, 2, 1, 2, 1, 1, 5, 6]),
            SEQ: torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
            LOGPROBS_OLD: torch.tensor([-1.0, -3.0, -1.0, -1.0, 0.0, 0.0, -0.5, -0.5]),
        }
    )
    scorer = Diversity(n=1, order=1).build(Run("made-up", Path(), 0, Bus()))
    found = anyio.run(scorer.score, batch)
    # Alike; then nothing of 1 1 in 5 6, a tenth of two.
    assert found[SCORES].tolist() == pytest.approx([0.0, 0.0, 0.95, 0.95])
    first, _, third, _ = found[SCORE_PARTS]
    assert first == pytest.approx({"self-bleu": 1.0, "distinct": 0.5, "repetition": 0.0, "entropy": 2.0})
    assert third == pytest.approx({"self-bleu": 0.05, "distinct": 0.75, "repetition": 0.5, "entropy": 0.0})
    assert "entropy" not in anyio.run(scorer.score, batch.only(frozenset([GROUP, TOKENS, SEQ])))[SCORE_PARTS][0]

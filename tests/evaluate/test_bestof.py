"""The best of n: the closed form against every subset, large N, ties, and the bound of its divergence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from truing_evaluate.bestof import best_of, kl_bound, share_below

SCORED = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.25]), st.floats(-4, 4)), min_size=1, max_size=8)


def enumerated(scores: list[float], truth: list[float], n: int) -> float:
    """The mean over all subsets of the truth of the best-scored, ties shared."""
    worth: list[float] = []
    for some in itertools.combinations(range(len(scores)), n):
        most = max(scores[at] for at in some)
        worth.append(float(np.mean([truth[at] for at in some if scores[at] == most])))
    return float(np.mean(worth))


@settings(deadline=None)
@given(SCORED, st.data())
def test_it_is_the_mean_over_every_subset(scored: list[tuple[float, float]], data: st.DataObject) -> None:
    scores, truth = [list(some) for some in zip(*scored, strict=True)]
    n = data.draw(st.integers(1, len(scores)))
    got = best_of(np.array(scores), np.array(truth), n)
    assert got == pytest.approx(enumerated(scores, truth, n), abs=1e-9)
    order = data.draw(st.permutations(range(len(scores))))
    assert best_of(np.array(scores)[order], np.array(truth)[order], n) == pytest.approx(got, abs=1e-9)


def test_completions_of_equal_score_share_the_places_that_a_coin_would_give_them() -> None:
    # Of the subsets of two out of a, b, b', c the tied ones are best in three; a coin decides between them.
    scores, truth = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0, 0.5])
    assert best_of(scores, truth, 2) == pytest.approx((3 * 0.5 + 3 * 0.5) / 6)
    assert best_of(np.zeros(4), truth, 3) == pytest.approx(truth.mean())


def test_one_is_the_mean_and_all_is_the_best() -> None:
    scores, truth = np.array([0.3, -1.0, 2.0]), np.array([1.0, 2.0, 7.0])
    assert best_of(scores, truth, 1) == pytest.approx(10 / 3)
    assert best_of(scores, truth, 3) == 7.0


def test_the_scores_choose_and_the_truth_is_averaged() -> None:
    assert best_of(np.array([1.0, 2.0]), np.array([9.0, -9.0]), 2) == -9.0


@pytest.mark.parametrize("n", [1, 100, 6300, 12_599, 12_600])
def test_so_many_completions_that_no_float_counts_their_subsets(n: int) -> None:
    share = share_below(12_600, n)
    exact = (
        [math.comb(i, n) / math.comb(12_600, n) if i >= n else 0.0 for i in (n, 12_599, 12_600)] if n < 200 else None
    )
    assert np.isfinite(share).all()
    assert share[-1] == 1.0
    assert (np.diff(share) >= 0).all()
    assert share[-2] == pytest.approx(1 - n / 12_600) or n == 12_600
    if exact:
        assert [share[n - 1], share[-2], share[-1]] == pytest.approx(exact, rel=1e-9)
    assert best_of(np.arange(12_600.0), np.ones(12_600), n) == pytest.approx(1.0)


def test_no_subset_is_larger_than_all() -> None:
    with pytest.raises(ValueError, match="the best of 3 out of 2"):
        best_of(np.zeros(2), np.zeros(2), 3)


def test_it_has_no_bias_where_drawing_with_replacement_has() -> None:
    random = np.random.default_rng(5)
    truth = random.standard_normal((2000, 16))
    expected = random.standard_normal((400_000, 4)).max(1).mean()
    got = np.array([best_of(some, some, 4) for some in truth])
    plug_in = np.array([some[random.integers(0, 16, (50, 4))].max(1).mean() for some in truth])
    assert abs(got.mean() - expected) < 4 * got.std() / len(got) ** 0.5
    assert plug_in.mean() < expected - 4 * plug_in.std() / len(got) ** 0.5


def test_the_divergence_is_bounded_and_with_few_outcomes_far_below_the_bound() -> None:
    assert kl_bound(1) == 0.0
    assert kl_bound(64) == pytest.approx(3.1745, abs=1e-4)
    assert kl_bound(12_500) == pytest.approx(8.4336, abs=1e-4)
    # Two equally likely outcomes, the better chosen if it is there once: with probability 1 - 2^-64.
    worse = 0.5**64
    assert (1 - worse) * math.log((1 - worse) / 0.5) + worse * math.log(worse / 0.5) == pytest.approx(0.6931, abs=1e-4)

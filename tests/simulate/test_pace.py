"""How long things take on so many devices, by hand."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("numpy", reason="numpy is not installed: pip install -e '.[evaluate]'")

import numpy as np

from truing_simulate.lengths import Lengths
from truing_simulate.measured import Measured, Shares, pace_of
from truing_simulate.pace import Pace, Places, most_dealt, rounds

PACE = Pace(
    lengths=Lengths(math.log(100), 0.0, 100),
    round_seconds=0.1,
    token_seconds=0.01,
    score_seconds=0.5,
    step_seconds=2.0,
    learn_seconds=0.1,
    publish_seconds=0.25,
    weights=8e9,
)


@pytest.mark.parametrize(("mean", "cut"), [(60.0, 0.05), (300.0, 0.4), (480.0, 0.9), (40.0, 0.0), (512.0, 1.0)])
def test_lengths_that_are_drawn_have_the_mean_and_the_share_of_cut_ones_they_were_fitted_to(
    mean: float, cut: float
) -> None:
    drawn = Lengths.fitted(mean, cut, 512).draw(list(range(2000)), 10)
    assert drawn.mean() == pytest.approx(mean, rel=0.03)
    assert (drawn == 512).mean() == pytest.approx(cut, abs=0.01)


def test_a_seat_goes_to_the_next_completion_as_soon_as_it_is_free() -> None:
    assert rounds(np.array([5, 2, 2, 4]), 4) == 5
    assert rounds(np.array([5, 2, 2, 4]), 2) == 8  # 5; and 2, 2, 4 beside it
    assert rounds(np.array([5, 2, 2, 4]), 1) == 13


def test_sampling_waits_for_the_longest_completion_of_the_copy_that_is_last() -> None:
    lengths = np.array([[10, 10], [40, 20]])
    together = PACE.generate(lengths, Places(1, 1, False))
    assert together.seconds == pytest.approx(0.1 * 40 + 0.01 * 80)
    apart = PACE.generate(lengths, Places(4, 1, False))
    assert apart.seconds == pytest.approx(0.1 * 40 + 0.01 * 60)
    assert apart.busy == pytest.approx((1.2 + 4.6) / (4 * 4.6))  # two of four copies have a prompt
    two_each = PACE.generate(lengths, Places(4, 1, False, copy=2))
    assert two_each.seconds == apart.seconds


def test_a_step_ends_with_the_device_that_was_dealt_most_and_gradients_go_around() -> None:
    lengths = np.array([7, 6, 4, 3])
    assert most_dealt(lengths, 2) == 10  # 7 + 3, 6 + 4
    assert most_dealt(lengths, 8) == 7
    assert PACE.learn(lengths, Places(1, 1, True)) == pytest.approx(2 + 0.1 * 20)
    far = Places(1, 4, False, network=4e9, latency=0.001)
    assert PACE.learn(lengths, far) == pytest.approx(2 + 0.1 * 7 + 2 * 3 / 4 * 8e9 / 4e9 + 2 * 3 * 0.001)
    assert PACE.publish(far) == pytest.approx(0.25 + 2)


def run(groups: int, **seconds: float) -> Measured:
    told = {stage: [value] for stage, value in seconds.items()}
    return Measured("", told, groups, 4, 256, 100.0, 1.0, 100, 0.0, 0.0)


def test_two_runs_of_different_sizes_tell_what_grows_with_the_tokens_from_what_does_not() -> None:
    def seconds(groups: int) -> dict[str, float]:
        tokens = 400 * groups
        return {"generate": 0.02 * 100 + 0.001 * tokens, "learn": 3 + 0.002 * tokens}

    known = [run(groups, **seconds(groups)) for groups in (2, 8)]
    pace = pace_of(known, Shares(), 100)
    assert (pace.round_seconds, pace.token_seconds) == pytest.approx((0.02, 0.001))
    assert (pace.step_seconds, pace.learn_seconds) == pytest.approx((3, 0.002))


def test_of_one_run_the_shares_are_believed_and_it_takes_what_it_took() -> None:
    pace = pace_of([run(2, generate=4.0, learn=2.0)], Shares(rounds=0.75, serial=0.1), 100)
    assert (pace.round_seconds, pace.step_seconds) == pytest.approx((0.03, 0.2))
    lengths = pace.lengths.draw([1, 2], 4)
    assert pace.generate(lengths, Places(1, 1, True)).seconds == pytest.approx(4)
    assert pace.learn(lengths.ravel(), Places(1, 1, True)) == pytest.approx(2)


def test_a_term_is_never_less_than_nothing() -> None:
    faster = pace_of([run(2, generate=4.0, learn=1.0), run(8, generate=3.0, learn=8.0)], Shares(), 100)
    assert faster.token_seconds == 0 < faster.round_seconds
    assert faster.step_seconds == 0 < faster.learn_seconds

"""What verdicts come to: worked by hand, held to planted judges, and to sums over all strings."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given, strategies as st

from truing_reward.judge_verdicts import (
    GIVEN,
    Comparison,
    Rating,
    Verdict,
    averaged,
    exclusive,
    log_odds,
    points_of,
    verdict,
    win_rates,
)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def compared(first: int, second: int, forward: float, backward: float, **more: float) -> Comparison:
    """forward, backward: the probability of A in either order."""
    both = (Verdict((chance, 1 - chance), 1.0, 7) for chance in (forward, backward))
    return Comparison(first, second, "by", *both)


def test_both_orders_are_averaged_as_worked_by_hand() -> None:
    each = compared(0, 1, 0.9, 0.4)
    assert each.orders == pytest.approx((0.9, 0.6))
    assert each.prefer == pytest.approx(0.75)
    told = each.told()
    assert told["consistency"] == 1
    assert told["first_choice"] == 0.5
    assert told["position_bias"] == pytest.approx((math.log(9) + math.log(0.4 / 0.6)) / 2)
    assert (told["mass"], told["missing"], told["judge_tokens"]) == (1, 0, 14)


def test_a_judge_that_always_takes_the_first_prefers_nothing() -> None:
    each = compared(0, 1, 0.99, 0.99)
    assert each.prefer == pytest.approx(0.5)
    assert (each.told()["consistency"], each.told()["first_choice"]) == (0, 1)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_the_planted_bias_and_the_order_of_the_two_are_told_apart(content: float, bias: float) -> None:
    each = compared(0, 1, sigmoid(content + bias), sigmoid(-content + bias))
    assert each.told()["position_bias"] == pytest.approx(bias, abs=1e-6)
    turned = compared(1, 0, sigmoid(-content + bias), sigmoid(content + bias))
    assert turned.prefer == pytest.approx(1 - each.prefer)
    if abs(content) > 1e-6:
        assert (each.prefer > 0.5) == (content > 0)


def test_swapping_undoes_a_planted_bias_that_one_order_follows() -> None:
    """200 pairs, a judge that leans to the first by 2.5 nats: after both orders it is as right as without."""
    draw = random.Random(0)
    leads = [draw.gauss(0, 1) for _ in range(200)]
    one, both = 0, 0
    for lead in leads:
        each = compared(0, 1, sigmoid(lead + 2.5), sigmoid(-lead + 2.5))
        one += (each.orders[0] > 0.5) == (lead > 0)
        both += (each.prefer > 0.5) == (lead > 0)
    assert both == 200
    assert one < 130


def test_a_tie_counts_half_for_each() -> None:
    forward, backward = Verdict((0.2, 0.2, 0.6), 1.0), Verdict((0.1, 0.5, 0.4), 1.0)
    each = Comparison(0, 1, "by", forward, backward)
    assert each.orders == pytest.approx((0.5, 0.7))
    assert each.told()["tie"] == pytest.approx(0.5)


def test_a_comparison_without_one_of_its_verdicts_says_nothing() -> None:
    each = Comparison(0, 1, "by", Verdict((0.9, 0.1), 0.8), Verdict((), 0.2, missing="unclear"))
    assert (each.prefer, each.known) == (0.5, False)
    assert each.told() == {"missing": 0.5, "mass": 0.5, "judge_tokens": 0.0}
    assert each.row([0, 1])["prefer"] is None


def test_a_verdict_that_hardly_any_probability_is_on_is_missing() -> None:
    assert verdict((0.3, 0.1), 0.5, 3, "The").missing == "unclear"
    assert verdict((0.3, 0.1), 0.4, 3).chances == pytest.approx((0.75, 0.25))
    assert verdict((0.0, 0.0), 0.0, 3).missing == "unclear"


def test_verdicts_behind_several_reasonings_are_averaged_and_those_that_are_missing_left_out() -> None:
    found = averaged([Verdict((0.9, 0.1), 0.8, 5), Verdict((), 0.1, 6, "unclear"), Verdict((0.5, 0.5), 0.6, 7)])
    assert found.chances == pytest.approx((0.7, 0.3))
    assert (found.mass, found.tokens) == (pytest.approx(0.7), 18)
    assert averaged([Verdict((), 0.1, 6, "unclear"), Verdict((), 0.1, 6, "long")]).missing == "unclear"


def test_a_score_is_the_mean_probability_to_win() -> None:
    some = [compared(4, 5, 0.9, 0.1), compared(4, 6, 0.8, 0.4), compared(5, 6, 0.5, 0.5)]
    rates = win_rates(some, [4, 5, 6])
    assert rates == pytest.approx({4: (0.9 + 0.7) / 2, 5: (0.1 + 0.5) / 2, 6: (0.3 + 0.5) / 2})
    assert sum(rates.values()) == pytest.approx(3 / 2)


def test_completions_that_were_not_compared_win_half_the_time() -> None:
    assert win_rates([compared(0, 1, 1.0, 0.0)], [0, 1, 2]) == pytest.approx({0: 0.75, 1: 0.25, 2: 0.5})
    assert win_rates([compared(0, GIVEN, 0.8, 0.4)], [0, 1]) == pytest.approx({0: 0.7, 1: 0.5})
    assert win_rates([], [3]) == {3: 0.5}


def test_points_are_expected_and_laid_out_from_minus_one_to_one() -> None:
    assert points_of((1, 0, 0, 0, 0)) == -1
    assert points_of((0, 0, 0, 0, 1)) == 1
    assert points_of([0.2] * 5) == pytest.approx(0)
    assert points_of((0.5, 0, 0.5)) == pytest.approx(-0.0)
    assert points_of((0.1, 0.2, 0.3, 0.4)) == pytest.approx(2 * (0.1 + 0.4 + 0.9 + 1.6 - 1) / 3 - 1)
    assert Rating("by", Verdict((0.5, 0, 0.5), 1.0)).told()["spread"] == pytest.approx(1)


def test_what_goes_on_to_a_longer_label_is_no_verdict_for_the_shorter() -> None:
    """Held to a sum over all strings of a small language, 0 to 3 its tokens and 3 its end."""
    draw = random.Random(3)

    def next_tokens(text: tuple[int, ...]) -> list[float]:
        weights = [random.Random(str(text) + str(at)).random() for at in range(4)]
        return [weight / sum(weights) for weight in weights]

    spelled = [(1,), (1, 0), (1, 0, 0), (2, 1), (0,)]
    begun = []
    for label in spelled:
        chance = 1.0
        for at, token in enumerate(label):
            chance *= next_tokens(label[:at])[token]
        begun.append(chance)
    truth = [0.0] * len(spelled)
    for text in product(range(4), repeat=4):
        chance = 1.0
        for at, token in enumerate(text):
            chance *= next_tokens(text[:at])[token]
        longest = max(
            (at for at, label in enumerate(spelled) if text[: len(label)] == label),
            key=lambda at: len(spelled[at]),
            default=None,
        )
        if longest is not None:
            truth[longest] += chance
    assert exclusive(begun, spelled) == pytest.approx(truth)
    order = list(range(len(spelled)))
    draw.shuffle(order)
    assert exclusive([begun[at] for at in order], [spelled[at] for at in order]) == pytest.approx(
        [truth[at] for at in order]
    )


def test_log_odds_of_certainty_are_finite() -> None:
    assert log_odds(1.0) == pytest.approx(math.log(999))
    assert log_odds(0.0) == pytest.approx(-math.log(999))

"""Advantages against numbers worked by hand, and against a slow count of the same."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.errors import RunFailed, UserError
from truing.fields import (
    ADVANTAGES,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_REF,
    OPPONENT,
    RETURNS,
    SCORE_PARTS,
    SCORES,
    SEQ,
    STEP_END,
    STEP_SCORES,
    STEP_SEQ,
    VALUES_OLD,
    Batch,
)
from truing.stage import AdvantageSpec
from truing.testing import check_spec
from truing_policy.advantages import expectiles, group_advantage, left_out, whitened
from truing_policy.plugin import (
    BestOfGroup,
    DynamicSampling,
    Gae,
    GroupRelative,
    LeaveOneOut,
    MonteCarlo,
    Process,
    Remax,
    Whitened,
)
from truing_policy.rewards import of_tokens
from truing_policy.temporal import generalized

from . import papers
from .conftest import Rollouts, estimated, owners, tensor

EVERY: list[type[AdvantageSpec]] = [
    GroupRelative,
    LeaveOneOut,
    Whitened,
    Gae,
    MonteCarlo,
    Process,
    Remax,
    BestOfGroup,
    DynamicSampling,
]


def sampled(scores: list[float], groups: list[int], lengths: list[int] | None = None) -> Batch:
    """Completions with scores, of one token each unless lengths say otherwise."""
    return Rollouts([[{}] * length for length in lengths or [1] * len(scores)], groups, scores).batch()


def advantages(spec: AdvantageSpec, batch: Batch) -> list[float]:
    return estimated(spec, batch)[ADVANTAGES].tolist()


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec.name)
def test_an_estimator_keeps_its_promises(spec: type[AdvantageSpec]) -> None:
    check_spec(spec)


# --- against the group ------------------------------------------------------------------------------------------------


def test_group_advantages_are_rewards_in_units_of_their_groups_deviation() -> None:
    batch = sampled([1.0, 3.0, 5.0, 5.0], [0, 0, 1, 1])
    assert advantages(GroupRelative(), batch) == pytest.approx([-1.0, 1.0, 0.0, 0.0])
    batch = sampled([0.0, 4.0, 2.0], [0, 0, 0], [1, 2, 1])
    deviation = math.sqrt(8 / 3)
    assert advantages(GroupRelative(), batch) == pytest.approx([-2 / deviation, 2 / deviation, 2 / deviation, 0])
    assert advantages(GroupRelative(scale=False), batch) == pytest.approx([-2, 2, 2, 0])


def test_the_expectile_of_three_and_one_is_worked_by_hand_and_nears_the_best() -> None:
    # 0.8 (4 - e) = 0.2 (e - 1 + e - 2 + e - 1), so e = 4 * 0.8 + 4 * 0.2 over 0.8 + 0.6.
    scores, group = tensor(1.0, 2.0, 1.0, 4.0, 5.0), torch.tensor([0, 0, 0, 0, 1])
    assert expectiles(scores, group, 2, 0.8).tolist() == pytest.approx([4.0 / 1.4, 5.0])
    assert expectiles(scores, group, 2, 0.5).tolist() == pytest.approx([2.0, 5.0])
    assert expectiles(scores, group, 2, 1 - 1e-9).tolist() == pytest.approx([4.0, 5.0], abs=1e-6)
    found = group_advantage(scores, group, scale=True, level=0.8)
    assert found.tolist() == pytest.approx([(x - 4 / 1.4) / math.sqrt(1.5) for x in (1, 2, 1, 4)] + [0.0])
    assert advantages(GroupRelative(expectile=0.8, scale=False), sampled([0.0, 1.0], [0, 0])) == pytest.approx(
        [-0.8, 0.2]
    )


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=50)
def test_an_expectile_is_where_the_weighed_distances_of_both_sides_are_equal(values: list[float], level: float) -> None:
    found = float(expectiles(tensor(*values), torch.zeros(len(values), dtype=torch.int64), 1, level))
    above = sum(value - found for value in values if value > found)
    below = sum(found - value for value in values if value <= found)
    assert level * above == pytest.approx((1 - level) * below, abs=1e-9)


def test_rloo_of_three_and_of_one_alone_is_worked_by_hand() -> None:
    batch = sampled([1.0, 2.0, 6.0, 9.0], [0, 0, 0, 1])
    # 1 - (2 + 6)/2, 2 - (1 + 6)/2, 6 - (1 + 2)/2; nobody to compare the last one with.
    assert advantages(LeaveOneOut(), batch) == pytest.approx([-3.0, -1.5, 4.5, 0.0])


def test_rloo_without_any_group_says_that_it_learns_nothing() -> None:
    with pytest.raises(RunFailed, match="alone in its group"):
        estimated(LeaveOneOut(), sampled([1.0, 2.0], [0, 1]))


drawn = st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=2, max_size=20)


@given(drawn)
@settings(deadline=None, max_examples=50)
def test_rloo_is_the_score_less_the_mean_of_the_others(some: list[tuple[int, float]]) -> None:
    groups, scores = [at for at, _ in some], [score for _, score in some]
    others = [
        [score for at, score in enumerate(scores) if at != here and groups[at] == groups[here]]
        for here in range(len(scores))
    ]
    if not any(others):
        return
    expected = [score - sum(rest) / len(rest) if rest else 0.0 for score, rest in zip(scores, others, strict=True)]
    assert left_out(tensor(*scores), torch.tensor(groups)).tolist() == pytest.approx(expected, abs=1e-9)


@given(drawn)
@settings(deadline=None, max_examples=50)
def test_the_advantages_of_a_group_sum_to_nothing(some: list[tuple[int, float]]) -> None:
    group, scores = torch.tensor([at for at, _ in some]), tensor(*(score for _, score in some))
    for found in (group_advantage(scores, group, scale=True), group_advantage(scores, group, scale=False)):
        assert float(torch.zeros(4, dtype=torch.float64).index_add(0, group, found).abs().max()) < 1e-6


@given(st.floats(-1e3, 1e3), st.integers(2, 9))
@settings(deadline=None, max_examples=50)
def test_a_group_whose_scores_are_equal_teaches_nothing(score: float, size: int) -> None:
    scores = torch.full((size,), score)
    assert not group_advantage(scores, torch.zeros(size, dtype=torch.int64), scale=True).any()
    assert not whitened(scores).any()
    batch = sampled([score] * size, [0] * size)
    for spec in (GroupRelative(), LeaveOneOut(), Whitened(), Whitened(baseline="group"), MonteCarlo()):
        assert max(map(abs, advantages(spec, batch))) < 1e-9 * (1 + abs(score))


def test_remax_compares_with_the_greedy_completion_and_leaves_it_out() -> None:
    # Of each prompt two rollouts and the greedy one; the third prompt has lost its greedy completion.
    batch = sampled([1.0, 3.0, 2.5, 0.0, 1.0, 1.0, 9.0], [0, 0, 0, 1, 1, 1, 2], [1, 2, 1, 1, 1, 3, 1])
    batch = named(batch.put(OPPONENT, torch.tensor([0, 0, 1, 0, 0, 1, 0])))
    found = estimated(Remax(), batch)
    assert found[COMPLETIONS] == ["answer 0", "answer 1", "answer 3", "answer 4"]
    assert found[ADVANTAGES].tolist() == pytest.approx([-1.5, 0.5, 0.5, -1.0, 0.0])
    assert OPPONENT in Remax().requires()


# --- against the batch ------------------------------------------------------------------------------------------------


def test_reinforce_plus_plus_whitens_over_the_tokens_of_the_batch() -> None:
    # Two tokens worth 4, one worth 1: mean 3, deviation sqrt(2).
    batch = sampled([4.0, 1.0], [0, 1], [2, 1])
    assert advantages(Whitened(), batch) == pytest.approx([1 / math.sqrt(2), 1 / math.sqrt(2), -math.sqrt(2)])


def test_reinforce_plus_plus_with_a_baseline_takes_the_groups_mean_first() -> None:
    batch = sampled([4.0, 2.0, 9.0, 1.0], [0, 0, 1, 1])
    # 1, -1, 4, -4: mean 0, deviation sqrt(34 / 4).
    found = estimated(Whitened(baseline="group"), batch)
    assert found[ADVANTAGES].tolist() == pytest.approx([value / math.sqrt(8.5) for value in (1, -1, 4, -4)])
    assert found[SCORES].tolist() == [4.0, 2.0, 9.0, 1.0]


def test_reinforce_plus_plus_charges_a_token_for_the_divergence_from_it_on() -> None:
    # A = score - beta sum of the log-ratios from the token on: 1 - 0.5 (0.2 + 0.6) and 1 - 0.5 0.6; -1.
    tokens = [[{"old": -1.0, "ref": -1.2}, {"old": -1.0, "ref": -1.6}], [{}]]
    batch = Rollouts(tokens, [0, 1], [1.0, -1.0]).batch()
    raw = tensor(0.6, 0.7, -1.0)
    expected = (raw - raw.mean()) / raw.std(correction=0)
    assert advantages(Whitened(kl=0.5), batch) == pytest.approx(expected.tolist())


# --- what it costs to leave the reference -----------------------------------------------------------------------------


def test_the_reward_of_instructgpt_is_the_score_at_the_last_token_less_the_divergence_at_each() -> None:
    tokens = [[{"old": -1.0, "ref": -1.5}, {"old": -2.0, "ref": -1.0}], [{"old": -1.0, "ref": -1.0}]]
    batch = Rollouts(tokens, [0, 0], [3.0, 7.0]).batch()
    found = {how: of_tokens(batch, Gae(kl=0.1, kl_estimator=how)).tolist() for how in ("k1", "k2", "k3")}  # type: ignore[arg-type]
    assert found["k1"] == pytest.approx([-0.05, 3.1, 7.0])
    assert found["k2"] == pytest.approx([-0.0125, 3 - 0.05, 7.0])
    k3 = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]
    assert found["k3"] == pytest.approx([-0.1 * k3[0], 3 - 0.1 * k3[1], 7.0])


def test_a_group_is_compared_by_what_is_left_of_its_scores() -> None:
    tokens = [[{"old": -1.0, "ref": -2.0}, {"old": -1.0, "ref": -2.0}], [{}]]
    batch = Rollouts(tokens, [0, 0], [1.0, 1.0]).batch()
    assert advantages(LeaveOneOut(kl=0.25), batch) == pytest.approx([-0.5, -0.5, 0.5])
    assert advantages(GroupRelative(kl=0.25), batch) == pytest.approx([-1.0, -1.0, 1.0])


def test_log_probabilities_are_asked_for_only_where_they_are_paid_for() -> None:
    for spec in (GroupRelative, LeaveOneOut, Whitened, Gae, MonteCarlo):
        assert not {LOGPROBS_OLD, LOGPROBS_REF} & spec().requires()
        assert {LOGPROBS_OLD, LOGPROBS_REF} <= spec(kl=0.1).requires()
    assert [fault.option for fault in LeaveOneOut(kl_estimator="k2").problems()] == ["kl_estimator"]


# --- token by token ---------------------------------------------------------------------------------------------------


def test_gae_of_five_tokens_is_exact() -> None:
    rewards, values = tensor(0.0, -1.0, 0.0, 0.0, 2.0), tensor(1.0, 0.5, 0.25, 1.0, 3.0)
    found = generalized(rewards, values, owners([5]), 0.5, 0.5)
    # Deltas -0.75, -1.375, 0.25, 0.5, -1, each worth a quarter of itself one token earlier.
    expected = [0.0] * 5
    expected[4] = -1.0
    expected[3] = 0.5 + 0.25 * expected[4]
    expected[2] = 0.25 + 0.25 * expected[3]
    expected[1] = -1.375 + 0.25 * expected[2]
    expected[0] = -0.75 + 0.25 * expected[1]
    assert found.tolist() == pytest.approx(expected, abs=1e-15)
    assert found.tolist() == pytest.approx([-1.07421875, -1.296875, 0.3125, 0.25, -1.0], abs=1e-15)


def test_returns_are_what_values_should_have_been_whatever_is_whitened() -> None:
    tokens = [[{"value_old": 1.0}, {"value_old": 0.5}], [{"value_old": -1.0}]]
    batch = Rollouts(tokens, [0, 0], [2.0, 3.0]).batch()
    plain, white = (estimated(Gae(whiten=whiten, trace=1.0), batch) for whiten in (False, True))
    # With lambda 1 the return is the reward that came.
    assert plain[RETURNS].tolist() == white[RETURNS].tolist() == pytest.approx([2.0, 2.0, 3.0])
    assert plain[ADVANTAGES].tolist() == pytest.approx([1.0, 1.5, 4.0])
    assert float(white[ADVANTAGES].mean()) == pytest.approx(0.0)
    assert float(white[ADVANTAGES].std(correction=0)) == pytest.approx(1.0)
    assert VALUES_OLD in Gae().requires()


some_walks = st.lists(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6), min_size=1, max_size=4
)


@given(some_walks, st.floats(0.1, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_gae_is_the_discounted_sum_of_all_errors_to_come(
    walks: list[list[tuple[float, float]]], discount: float, trace: float
) -> None:
    flat = [token for walk in walks for token in walk]
    rewards, values = tensor(*(reward for reward, _ in flat)), tensor(*(value for _, value in flat))
    found = generalized(rewards, values, owners([len(walk) for walk in walks]), discount, trace)
    expected = [
        each
        for walk in walks
        for each in papers.gae([reward for reward, _ in walk], [value for _, value in walk], discount, trace)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_returns_are_worth_less_the_earlier() -> None:
    batch = sampled([8.0, 2.0], [0, 1], [3, 1])
    assert advantages(MonteCarlo(discount=0.5, whiten=False), batch) == pytest.approx([2.0, 4.0, 8.0, 2.0])


# --- step by step -----------------------------------------------------------------------------------------------------


def stepped() -> Batch:
    """Two completions of one prompt: of four tokens and two steps, right with 0.9 and 0.3, and of two tokens and one
    step, right with 0.6; the third has no step."""
    right = tensor(0.9, 0.3, 0.6)
    batch = sampled([1.0, 0.0, 0.5], [0, 0, 0], [4, 2, 1])
    steps = {STEP_SEQ: torch.tensor([0, 0, 1]), STEP_END: torch.tensor([1, 2, 5]), STEP_SCORES: right.logit()}
    return batch.put_all(steps)


def test_process_advantages_are_the_rewards_of_the_steps_that_are_not_over() -> None:
    plain = advantages(Process(scale=False), stepped())
    # Against the mean 0.6: 0.3, -0.3 and 0. The token behind the last step of the first has nothing to come.
    assert plain == pytest.approx([0.0, 0.0, -0.3, 0.0, 0.0, 0.0, 0.0])
    scaled = advantages(Process(), stepped())
    assert scaled[2] == pytest.approx(-0.3 / math.sqrt((0.09 + 0.09) / 3))
    both = advantages(Process(scale=False, outcome=2.0), stepped())
    assert both == pytest.approx([1.0, 1.0, 0.7, 1.0, -1.0, -1.0, 0.0])


def test_steps_are_paid_at_their_last_token_beside_the_score() -> None:
    assert of_tokens(stepped(), Gae(step_weight=2.0)).tolist() == pytest.approx([0, 1.8, 0.6, 1.0, 0, 1.2, 0.5])
    assert STEP_SCORES in MonteCarlo(step_weight=1.0).requires()


def test_completions_without_any_steps_have_no_process_advantage() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    batch = sampled([1.0, 2.0], [0, 0]).put_all({STEP_SEQ: none, STEP_END: none, STEP_SCORES: torch.zeros(0)})
    assert advantages(Process(), batch) == [0.0, 0.0]


# --- which are learned from -------------------------------------------------------------------------------------------


def named(batch: Batch) -> Batch:
    return batch.put(COMPLETIONS, [f"answer {at}" for at in range(len(batch[GROUP]))])


def test_the_best_of_each_group_are_kept_and_groups_that_are_alike_dropped() -> None:
    batch = named(sampled([1.0, 3.0, 3.0, 2.0, 2.0, 0.0, 5.0], [0, 0, 0, 1, 1, 2, 2], [1, 2, 1, 1, 1, 1, 1]))
    found = estimated(BestOfGroup(), batch)
    assert found[COMPLETIONS] == ["answer 1", "answer 6"]
    assert found[IDS] == ["0", "2"]
    assert found[SEQ].tolist() == [0, 0, 1]
    two = estimated(BestOfGroup(keep=2), batch)
    assert two[COMPLETIONS] == ["answer 1", "answer 2", "answer 5", "answer 6"]


def test_a_wave_that_teaches_nothing_is_left_empty() -> None:
    batch = named(sampled([2.0, 2.0, 1.0], [0, 0, 1])).put(OPPONENT, torch.tensor([0, 0, 1]))
    for spec in (BestOfGroup(), Remax(), DynamicSampling()):
        assert estimated(spec, batch)[IDS] == []


def test_dynamic_sampling_drops_groups_whose_scores_are_all_equal() -> None:
    batch = named(sampled([1.0, 1.0, 0.0, 2.0], [0, 0, 1, 1]))
    found = estimated(DynamicSampling(of=GroupRelative()), batch)
    assert found[IDS] == ["1"]
    assert found[ADVANTAGES].tolist() == pytest.approx([-1.0, 1.0])
    assert DynamicSampling(of=GroupRelative()).provides() == GroupRelative().provides()
    assert not DynamicSampling().provides()
    assert not estimated(DynamicSampling(of=GroupRelative()), named(sampled([1.0, 1.0], [0, 0])))[IDS]


def test_dynamic_sampling_looks_at_one_score_of_a_mix() -> None:
    parts = [{"right": 1.0, "short": 0.1}, {"right": 1.0, "short": 0.2}]
    batch = sampled([1.1, 1.2], [0, 0]).put(SCORE_PARTS, parts)
    assert estimated(DynamicSampling(), batch)[IDS]
    assert not estimated(DynamicSampling(part="right"), batch)[IDS]
    assert SCORE_PARTS in DynamicSampling(part="right").requires()
    with pytest.raises(UserError, match='did you mean "right"'):
        estimated(DynamicSampling(part="rigth"), batch)

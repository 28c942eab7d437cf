"""The sampling distribution, written out one token at a time, and whether draws follow it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from scipy.stats import chisquare

from truing_generate import sampling
from truing_generate.sampling import Sampler, draw

logit_rows = st.lists(st.integers(-5000, 5000).map(lambda n: n / 1000), min_size=2, max_size=12, unique=True)
samplers = st.builds(
    Sampler,
    temperature=st.floats(0.2, 3.0),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 0.9),
)


def distribution(logits: list[float], sampler: Sampler) -> dict[int, float]:
    """Temperature, then top-k, then top-p, then min-p, with plain floats."""
    weights = {token: math.exp(logit / sampler.temperature) for token, logit in enumerate(logits)}
    order = sorted(weights, key=lambda token: -weights[token])[: sampler.top_k or len(logits)]
    total = sum(weights[token] for token in order)
    kept: list[int] = []
    mass = 0.0
    for token in order:
        if mass < sampler.top_p * total:
            kept.append(token)
        mass += weights[token]
    kept = [token for token in kept if weights[token] >= sampler.min_p * weights[order[0]]]
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


@pytest.mark.parametrize("likeliest", [3, 1024])
@given(logit_rows, samplers, st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=150)
def test_a_draw_and_both_its_log_probabilities_are_those_of_the_distribution_written_out(
    likeliest: int, logits: list[float], sampler: Sampler, uniform: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_LIKELIEST", likeliest)
        drawn = sampler(torch.tensor([logits]), torch.tensor([uniform]))
    token = int(drawn.tokens)
    expected = distribution(logits, sampler)
    ratios = _ratios(logits, sampler)
    if _near_top_p(logits, sampler) or any(abs(1 - sampler.min_p / ratio) < 1e-4 for ratio in ratios):
        return
    assert token in expected
    assert float(drawn.sampled) == pytest.approx(math.log(expected[token]), abs=1e-4)
    model = torch.tensor(logits, dtype=torch.float64).log_softmax(0)
    assert float(drawn.logprobs) == pytest.approx(float(model[token]), abs=1e-5)


def _ratios(logits: list[float], sampler: Sampler) -> list[float]:
    return [math.exp((logit - max(logits)) / sampler.temperature) for logit in logits]


def _near_top_p(logits: list[float], sampler: Sampler) -> bool:
    """Whether rounding decides if a token is inside `top_p`."""
    weights = sorted((math.exp(logit / sampler.temperature) for logit in logits), reverse=True)
    weights = weights[: sampler.top_k or len(weights)]
    sums = [sum(weights[: at + 1]) / sum(weights) for at in range(len(weights))]
    return any(abs(mass - sampler.top_p) < 1e-5 for mass in sums)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 2.0, "top_k": 5, "top_p": 0.8},
    ],
)
def test_many_draws_follow_the_distribution(options: dict[str, Any]) -> None:
    logits = [0.3, 1.2, -0.4, 2.0, 0.9, -1.0, 0.1, 1.5]
    sampler, count = Sampler(**options), 20_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(1))
    drawn = sampler(torch.tensor([logits]).expand(count, -1), uniform).tokens
    expected = distribution(logits, sampler)
    assert set(drawn.tolist()) == expected.keys()
    seen = [int((drawn == token).sum()) for token in expected]
    assert chisquare(seen, [count * chance for chance in expected.values()]).pvalue > 1e-3


def test_temperature_zero_takes_the_likeliest_and_is_sure_of_it() -> None:
    drawn = Sampler(temperature=0.0)(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.999]))
    assert drawn.tokens.tolist() == [1]
    assert drawn.sampled.tolist() == [0.0]
    assert float(drawn.logprobs) == pytest.approx(3 - math.log(1 + math.e**3 + math.e))


chance_lists = st.lists(st.sampled_from([0.0, 1e-8, 0.1, 1.0, 7.0]), min_size=1, max_size=700)


@given(chance_lists, st.floats(0, 1, exclude_max=True, width=32))
@example([0.1, 0.1, 1.0, 0.1], 0.9999999403953552)  # times the sum it is the sum, rounded
@settings(deadline=None, max_examples=200)
def test_a_draw_lies_where_the_running_sum_passes_and_never_at_a_chance_of_zero(
    chances: list[float], uniform: float
) -> None:
    if not any(chances):
        return
    found = int(draw(torch.tensor([chances]), torch.tensor([uniform])))
    assert chances[found] > 0
    exact = torch.tensor(chances, dtype=torch.float64).cumsum(0)
    target = uniform * float(exact[-1])
    before = float(exact[found]) - chances[found]
    assert before - 1e-4 * float(exact[-1]) <= target <= float(exact[found]) + 1e-4 * float(exact[-1])


def test_a_large_vocabulary_is_drawn_from_to_its_last_token() -> None:
    chances = torch.zeros(2, 50_000)
    chances[0, 49_999] = 1.0
    chances[1] = 1 / 50_000
    found = draw(chances, torch.tensor([0.3, 0.99999]))
    assert found[0] == 49_999
    assert found[1] > 49_900

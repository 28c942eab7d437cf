"""A small world whose right answer is known: what the losses make of a policy over fifty answers, and of length."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, SEQ, SOFT, Batch
from truing.stage import LossSpec
from truing_preference.plugin import Dpo, Ipo, RDpo, SimPo

from .conftest import built, objective
from .papers import correlation

ANSWERS = 50


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


REFERENCE = torch.randn(ANSWERS, generator=generator(0), dtype=torch.float64).log_softmax(0)
REWARD = torch.randn(ANSWERS, generator=generator(1), dtype=torch.float64)
FIRST, SECOND = torch.triu_indices(ANSWERS, ANSWERS, offset=1)
"""Every pair of answers, once."""


def fitted(spec: LossSpec, start: Tensor, batch: Callable[[Tensor], Batch], steps: int = 2000) -> Tensor:
    """Logits that minimise a loss, by a quasi-Newton method. batch: what the loss sees of some logits."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    loss = built(spec)

    def again() -> Tensor:
        optimizer.zero_grad()
        seen = batch(logits)
        total = objective(loss(seen), seen)
        total.backward()
        return total

    optimizer.step(again)
    return logits.detach()


def compared(won: Tensor) -> Callable[[Tensor], Batch]:
    """All pairs of answers, the first of each better with this probability [pair]. An answer is one token."""

    def batch(logits: Tensor) -> Batch:
        return Batch(
            {
                LOGPROBS: logits.log_softmax(0),
                LOGPROBS_REF: REFERENCE,
                SEQ: torch.arange(ANSWERS),
                CHOSEN: FIRST,
                REJECTED: SECOND,
                SOFT: won,
            }
        )

    return batch


def total_variation(one: Tensor, other: Tensor) -> float:
    """Half the sum of differences of two distributions, given by their logits."""
    return float((one.softmax(0) - other.softmax(0)).abs().sum() / 2)


BRADLEY_TERRY = (REWARD[FIRST] - REWARD[SECOND]).sigmoid()


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_dpo_reaches_the_reference_times_the_exponential_of_the_reward(beta: float) -> None:
    found = fitted(Dpo(beta=beta, soft=True), REFERENCE, compared(BRADLEY_TERRY))
    assert total_variation(found, REFERENCE + REWARD / beta) < 1e-6
    assert total_variation(REFERENCE, REFERENCE + REWARD / beta) > 0.1


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_ipo_reaches_the_reference_times_the_exponential_of_the_win_rate(beta: float) -> None:
    # The reward of IPO is how often an answer wins (its section 4, with psi the identity), itself included at one half.
    table = (REWARD[:, None] - REWARD[None, :]).sigmoid()
    optimum = REFERENCE + table.mean(1) / beta
    found = fitted(Ipo(beta=beta, soft=True), REFERENCE, compared(BRADLEY_TERRY))
    assert total_variation(found, optimum) < 1e-6
    assert total_variation(REFERENCE, optimum) > 0.02


def test_of_preferences_nobody_contradicts_dpo_makes_certainties_and_ipo_does_not() -> None:
    never = torch.ones(len(FIRST), dtype=torch.float64)  # the first of every pair always wins
    beta = 1.0
    dpo = [fitted(Dpo(beta=beta), REFERENCE, compared(never), steps).log_softmax(0) for steps in (20, 200)]
    ipo = fitted(Ipo(beta=beta), REFERENCE, compared(never)).log_softmax(0)
    assert dpo[1][-1] < -30, "the answer that always loses is all but impossible"
    assert dpo[1][-1] < dpo[0][-1] - 3, "and becomes more so the longer it is trained"
    ratios = ipo - REFERENCE
    # Win rates differ by at most (K - 1) / K, so no two log-ratios by more than that over beta.
    assert float(ratios.max() - ratios.min()) == pytest.approx((ANSWERS - 1) / ANSWERS / beta, abs=1e-6)


# --- length -----------------------------------------------------------------------------------------------------------

GOOD, BAD = 1, 0
WORDS = torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64).log_softmax(0)
"""The reference draws every word alike: a bad one, a good one, or one that no answer has."""


def answers(count: int, seed: int) -> list[list[int]]:
    """Answers of 1 to 15 words; how many are good has nothing to do with how many there are."""
    chance = random.Random(seed)
    found: list[list[int]] = []
    for _ in range(count):
        share, length = chance.random(), chance.randint(1, 15)
        found.append([GOOD if chance.random() < share else BAD for _ in range(length)])
    return found


def quality(answer: list[int]) -> float:
    return sum(answer) / len(answer)


def biased(texts: list[list[int]], seed: int) -> Callable[[Tensor], Batch]:
    """Neighbours compared by their quality and, which is the bias, by their length."""
    chance, pairs = random.Random(seed), list[tuple[int, int]]()
    for at in range(0, len(texts), 2):
        one, other = texts[at], texts[at + 1]
        lead = 3 * (quality(one) - quality(other)) + 0.15 * (len(one) - len(other))
        pairs.append((at, at + 1) if chance.random() < 1 / (1 + math.exp(-lead)) else (at + 1, at))
    assert sum(len(texts[w]) - len(texts[z]) for w, z in pairs) / len(pairs) > 1, "rejected ones are shorter"
    words = torch.tensor([word for text in texts for word in text])
    seq = torch.tensor([at for at, text in enumerate(texts) for _ in text])

    def batch(logits: Tensor) -> Batch:
        return Batch(
            {
                LOGPROBS: logits.log_softmax(0)[words],
                LOGPROBS_REF: WORDS[words],
                SEQ: seq,
                CHOSEN: torch.tensor([w for w, _ in pairs]),
                REJECTED: torch.tensor([z for _, z in pairs]),
            }
        )

    return batch


def length_bias(spec: LossSpec) -> tuple[float, float]:
    """How the reward that a loss has learned goes with length, and with quality, on answers it has not seen."""
    ratio = fitted(spec, WORDS, biased(answers(400, seed=0), seed=1), steps=300).log_softmax(0) - WORDS
    unseen = answers(400, seed=2)
    rewards = [sum(float(ratio[word]) for word in text) for text in unseen]
    if isinstance(spec, SimPo):
        rewards = [reward / len(text) for reward, text in zip(rewards, unseen, strict=True)]
    return correlation(rewards, [len(text) for text in unseen]), correlation(rewards, [quality(t) for t in unseen])


def test_where_rejected_answers_are_shorter_simpo_and_r_dpo_learn_less_of_length_than_dpo() -> None:
    dpo, r_dpo, simpo = length_bias(Dpo()), length_bias(RDpo(alpha=0.1)), length_bias(SimPo())
    assert dpo[0] > 0.2
    assert abs(r_dpo[0]) < 0.05
    assert abs(simpo[0]) < 0.05
    assert min(r_dpo[1], simpo[1]) > dpo[1], "and more of quality"

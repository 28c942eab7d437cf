"""A small language whose best policy is known: what rewards, estimators and losses come to when they work together.

Completions of up to three words out of three, the first word ends them. Held to a reference by beta, the best policy is
ref(y) exp(r(y) / beta), normalised, and no other; PPO and RLOO must find it from samples.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from truing.fields import (
    ADVANTAGES,
    ENTROPY,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_OLD,
    LOGPROBS_REF,
    SCORES,
    SEQ,
    VALUES,
    VALUES_OLD,
    Batch,
)
from truing.stage import AdvantageSpec, LossSpec
from truing_policy.plugin import Gae, Grpo, LeaveOneOut, Ppo, Reinforce, Whitened
from truing_tensor.divergence import divergence

from .conftest import built, estimated, objective, owners

WORDS, LONGEST, END = 3, 3, 0


def written(context: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every completion."""
    if context and (context[-1] == END or len(context) == LONGEST):
        return [context]
    return [whole for word in range(WORDS) for whole in written((*context, word))]


EVERY = written()
CONTEXTS = sorted({whole[:at] for whole in EVERY for at in range(len(whole))})
STATES = [[CONTEXTS.index(whole[:at]) for at in range(len(whole))] for whole in EVERY]
OWNER = owners([len(whole) for whole in EVERY])
RANDOM = torch.Generator().manual_seed(0)
REFERENCE = torch.randn(len(CONTEXTS), WORDS, generator=RANDOM, dtype=torch.float64)
REWARD = torch.randn(len(EVERY), generator=RANDOM, dtype=torch.float64)
BETA = 0.5


def token_logprobs(logits: Tensor) -> Tensor:
    """The log-probability of every token of every completion [token]; logits [context, word]."""
    table = logits.log_softmax(1)
    states = torch.tensor([state for states in STATES for state in states])
    return table[states, torch.tensor([word for whole in EVERY for word in whole])]


def log_pi(logits: Tensor) -> Tensor:
    return torch.zeros(len(EVERY), dtype=torch.float64).index_add(0, OWNER, token_logprobs(logits))


OPTIMUM = (log_pi(REFERENCE) + REWARD / BETA).softmax(0)


def apart(one: Tensor, other: Tensor) -> float:
    """Total variation."""
    return float((one - other).abs().sum() / 2)


def wave(logits: Tensor, groups: int, each: int, random: torch.Generator) -> tuple[Batch, Tensor]:
    """Completions that the policy wrote, with scores; and where each of their tokens is among those of all [token]."""
    drawn = torch.multinomial(log_pi(logits).exp(), groups * each, replacement=True, generator=random)
    starts = [0]
    for states in STATES:
        starts.append(starts[-1] + len(states))
    at = torch.tensor([token for which in drawn.tolist() for token in range(starts[which], starts[which + 1])])
    batch = Batch(
        {
            IDS: [str(number) for number in range(groups)],
            GROUP: torch.arange(groups).repeat_interleave(each),
            SEQ: owners([len(STATES[which]) for which in drawn.tolist()]),
            SCORES: REWARD[drawn],
            LOGPROBS_OLD: token_logprobs(logits)[at],
            LOGPROBS_REF: token_logprobs(REFERENCE)[at],
        }
    )
    return batch, at


def learned(estimator: AdvantageSpec, spec: LossSpec, steps: int, passes: int, rate: float) -> Tensor:
    """The mean of the last policies of a run [completion]."""
    random = torch.Generator().manual_seed(1)
    logits = REFERENCE.clone().requires_grad_()
    values = torch.zeros(len(CONTEXTS), dtype=torch.float64, requires_grad=True)
    states = torch.tensor([state for states in STATES for state in states])
    loss = built(spec)
    tail: list[Tensor] = []
    for step in range(steps):
        batch, at = wave(logits.detach(), 64, 8, random)
        batch = estimated(estimator, batch.put(VALUES_OLD, values.detach()[states[at]]))
        for _ in range(passes):
            table = logits.log_softmax(1)
            entropy = -(table.exp() * table).sum(1)
            seen = {LOGPROBS: token_logprobs(logits)[at], VALUES: values[states[at]], ENTROPY: entropy[states[at]]}
            whole = batch.put_all(seen)
            slopes = torch.autograd.grad(objective(loss(whole), whole), [logits, values], allow_unused=True)
            with torch.no_grad():
                for parameter, slope in zip((logits, values), slopes, strict=True):
                    if slope is not None:
                        parameter -= rate / (1 + 10 * step / steps) * slope
        if step >= 0.8 * steps:
            tail.append(log_pi(logits.detach()).exp())
    return torch.stack(tail).mean(0)


@pytest.mark.parametrize(
    ("estimator", "loss", "steps", "passes"),
    [
        (Gae(kl=BETA, whiten=False), Ppo(value=0.5, clip_value=0.0), 100, 3),
        (LeaveOneOut(kl=BETA), Reinforce(), 150, 1),
        (LeaveOneOut(kl=BETA), Ppo(value=0.0, mean="constant"), 80, 2),
    ],
    ids=["ppo", "rloo", "rloo-clipped"],
)
def test_the_best_policy_under_its_kl_constraint_is_reached_from_samples(
    estimator: AdvantageSpec, loss: LossSpec, steps: int, passes: int
) -> None:
    found = learned(estimator, loss, steps, passes, rate=3.0)
    assert apart(log_pi(REFERENCE).exp(), OPTIMUM) > 0.3
    assert apart(found, OPTIMUM) < 0.03


# --- the gradient of a divergence -------------------------------------------------------------------------------------

LOGITS = torch.randn(len(CONTEXTS), WORDS, generator=RANDOM, dtype=torch.float64)
OLD = LOGITS + 0.3 * torch.randn(len(CONTEXTS), WORDS, generator=RANDOM, dtype=torch.float64)


def by_differences(of: Callable[[Tensor], Tensor]) -> Tensor:
    found, step = torch.zeros(LOGITS.numel(), dtype=torch.float64), 1e-5
    for place in range(found.numel()):
        push = torch.zeros(found.numel(), dtype=torch.float64)
        push[place] = step
        up, down = of(LOGITS + push.view_as(LOGITS)), of(LOGITS - push.view_as(LOGITS))
        found[place] = (up - down) / (2 * step)
    return found.view_as(LOGITS)


def often(logits: Tensor) -> Tensor:
    """How often a policy comes to each context [context]."""
    found = torch.zeros(len(CONTEXTS), dtype=torch.float64)
    for whole, chance in zip(EVERY, log_pi(logits).exp(), strict=True):
        for at in range(len(whole)):
            found[CONTEXTS.index(whole[:at])] += chance
    return found


def divergence_of(one: Tensor, other: Tensor, visits: Tensor) -> Tensor:
    """The KL divergence of the next word, over the contexts that are visited."""
    first, second = one.log_softmax(1), other.log_softmax(1)
    return (visits * (first.exp() * (first - second)).sum(1)).sum()


def expected_slope(estimator: str, writer: Tensor) -> Tensor:
    """The mean gradient of the KL term of a loss over what a policy writes [context, word]."""
    free = LOGITS.clone().requires_grad_()
    logs = token_logprobs(free)
    leaf = logs.detach().requires_grad_()
    zeros = torch.zeros_like(leaf)
    fixed = {ADVANTAGES: zeros, ENTROPY: zeros, SEQ: OWNER, LOGPROBS_OLD: token_logprobs(writer)}
    batch = Batch({LOGPROBS: leaf, LOGPROBS_REF: token_logprobs(REFERENCE), **fixed})
    term = built(Grpo(kl=1.0, kl_estimator=estimator, mean="constant"))(batch).terms["kl"]  # type: ignore[arg-type]
    (each,) = torch.autograd.grad(term.total, leaf)
    (found,) = torch.autograd.grad((logs * each * log_pi(writer).exp()[OWNER]).sum(), free)
    return found


def test_k2_has_the_gradient_of_the_divergence_from_the_reference() -> None:
    visits = often(LOGITS)
    exact = by_differences(lambda some: divergence_of(some, REFERENCE, visits))
    torch.testing.assert_close(expected_slope("k2", LOGITS), exact, rtol=0, atol=1e-8)


def test_k3_has_the_gradient_of_the_divergence_of_the_reference_from_the_policy() -> None:
    visits = often(LOGITS)
    other = by_differences(lambda some: divergence_of(REFERENCE, some, visits))
    torch.testing.assert_close(expected_slope("k3", LOGITS), other, rtol=0, atol=1e-8)
    exact = by_differences(lambda some: divergence_of(some, REFERENCE, visits))
    assert float((expected_slope("k3", LOGITS) - exact).abs().max()) > 0.01


def test_weighted_by_the_ratio_k3_has_the_right_gradient_whoever_wrote_the_completion() -> None:
    visits = often(OLD)
    exact = by_differences(lambda some: divergence_of(some, REFERENCE, visits))
    torch.testing.assert_close(expected_slope("weighted-k3", OLD), exact, rtol=0, atol=1e-8)
    assert float((expected_slope("k2", OLD) - exact).abs().max()) > 0.01


def test_the_gradient_of_k1_is_nothing_whatever_the_reference() -> None:
    assert float(expected_slope("k1", LOGITS).abs().max()) < 1e-12


def test_k1_and_k3_have_the_divergence_as_their_mean_and_k2_nearly() -> None:
    near_by = REFERENCE + 0.05 * (LOGITS - REFERENCE)
    chances, logs = log_pi(near_by).exp()[OWNER], token_logprobs(near_by)
    exact = float(divergence_of(near_by, REFERENCE, often(near_by)))
    for how, near in (("k1", 1e-12), ("k3", 1e-12), ("k2", 0.1 * exact)):
        found = float((chances * divergence(logs, token_logprobs(REFERENCE), how)).sum())  # type: ignore[arg-type]
        assert found == pytest.approx(exact, abs=near)


def test_reinforce_plus_plus_rests_where_nothing_is_better_than_the_rest() -> None:
    batch, _ = wave(REFERENCE, 32, 4, torch.Generator().manual_seed(2))
    found = estimated(Whitened(kl=0.1), batch)[ADVANTAGES]
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(found.square().mean()) == pytest.approx(1.0)

"""Nash-MD: its gradient by differences over every completion of a small language, and a game without a best answer.

Each answer of the game beats one and loses to another, unequally. What is sought is known by its own equation,
pi ~ ref exp(P(. > pi) / beta), and no reward leads there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from truing.bus import Bus
from truing.fields import (
    ADVANTAGES,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    OPPONENT,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
)
from truing.run import Run
from truing_preference.plugin import NashAdvantage, NashMd
from truing_tensor.testing import check_loss

from .conftest import built, objective, total

# --- the gradient of Nash-MD ------------------------------------------------------------------------------------------


def test_nash_md_of_two_completions_is_worked_by_hand() -> None:
    batch = Batch(
        {
            LOGPROBS: torch.tensor([-1.0, -2.0, -1.0], dtype=torch.float64).requires_grad_(),
            LOGPROBS_REF: torch.tensor([-1.5, -1.0, -3.0], dtype=torch.float64),
            ADVANTAGES: torch.tensor([0.25, 0.25, -0.1], dtype=torch.float64),
            SEQ: torch.tensor([0, 0, 1]),
        }
    )
    value = built(NashMd(beta=0.5))(batch)
    (slope,) = torch.autograd.grad(objective(value, batch), batch[LOGPROBS])
    # Log-ratios 0.5, -1 and 2; what is left of them -0.5, -1 and 2. A mean over two completions.
    assert slope.tolist() == pytest.approx([(-0.25 - 0.25) / 2, (-0.25 - 0.5) / 2, (0.1 + 1.0) / 2])
    reported = {name: float(total(term, batch).detach()) for name, term in value.metrics.items() if "|" not in name}
    assert reported == pytest.approx({"win_rate": (0.75 + 0.4) / 2, "kl": (0.125 + 0.5 + 2.0) / 2})


def test_nash_md_does_its_arithmetic_right_however_a_batch_is_cut() -> None:
    check_loss(NashMd(), differences=False)


WORDS, LONGEST, END = 3, 3, 0
"""Completions of up to three words out of three, the first of which ends them."""


def written(context: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every completion."""
    if context and (context[-1] == END or len(context) == LONGEST):
        return [context]
    return [whole for word in range(WORDS) for whole in written((*context, word))]


EVERY = written()
CONTEXTS = sorted({whole[:at] for whole in EVERY for at in range(len(whole))})


def token_logprobs(logits: Tensor) -> Tensor:
    """The log-probability of every token of every completion [token]; logits [context, word]."""
    table = logits.log_softmax(1)
    return torch.stack([table[CONTEXTS.index(y[:at]), y[at]] for y in EVERY for at in range(len(y))])


OWNER = torch.tensor([at for at, y in enumerate(EVERY) for _ in y])


def log_pi(logits: Tensor) -> Tensor:
    return torch.zeros(len(EVERY), dtype=torch.float64).index_add(0, OWNER, token_logprobs(logits))


def test_the_expected_gradient_is_that_of_the_win_rate_less_the_kl_of_whole_completions() -> None:
    random, beta = torch.Generator().manual_seed(0), 0.3
    shape = (len(CONTEXTS), WORDS)
    logits, reference, opponent = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(3))
    skew = torch.randn(len(EVERY), len(EVERY), generator=random, dtype=torch.float64)
    beats = (skew - skew.T).sigmoid() @ log_pi(opponent).exp()

    def sought(some: Tensor) -> Tensor:
        logs = log_pi(some)
        return (logs.exp() * (beats - beta * (logs - log_pi(reference)))).sum()

    def by_differences() -> Tensor:
        found, step = torch.zeros(shape, dtype=torch.float64), 1e-5
        for place in range(found.numel()):
            push = torch.zeros(found.numel(), dtype=torch.float64)
            push[place] = step
            up, down = sought(logits + push.view(shape)), sought(logits - push.view(shape))
            found.view(-1)[place] = (up - down) / (2 * step)
        return found

    free = logits.clone().requires_grad_()
    logs = token_logprobs(free)
    leaf = logs.detach().requires_grad_()
    batch = Batch(
        {
            LOGPROBS: leaf,
            LOGPROBS_REF: token_logprobs(reference),
            ADVANTAGES: (beats - 0.5)[OWNER],
            SEQ: OWNER,
        }
    )
    # A sum over completions, each as often as it is written.
    sums = sum(term.weight * term.total for term in built(NashMd(beta=beta))(batch).terms.values())
    (each,) = torch.autograd.grad(torch.as_tensor(sums), leaf)
    (found,) = torch.autograd.grad((logs * each * log_pi(logits).exp()[OWNER]).sum(), free)
    torch.testing.assert_close(-found, by_differences(), rtol=0, atol=1e-8)


# --- a game without a best answer -------------------------------------------------------------------------------------

BEATS = torch.tensor([[0.5, 0.1, 0.8], [0.9, 0.5, 0.3], [0.2, 0.7, 0.5]], dtype=torch.float64)
"""How often the answer of a row is preferred to that of a column: each beats one and loses to another."""
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
BETA = 0.1


def equilibrium(beta: float) -> Tensor:
    """The policy that no other is preferred to, less beta times how far each is from the reference: by damped steps to
    its own equation."""
    logs = REFERENCE.clone()
    for _ in range(20_000):
        logs = (0.99 * logs + 0.01 * (REFERENCE + BEATS @ logs.exp() / beta)).log_softmax(0)
    torch.testing.assert_close(logs, (REFERENCE + BEATS @ logs.exp() / beta).log_softmax(0), rtol=0, atol=1e-12)
    return logs.exp()


def kl(one: Tensor, reference: Tensor = REFERENCE) -> Tensor:
    return (one * (one.log() - reference)).sum()


def apart(one: Tensor, other: Tensor) -> float:
    """Total variation."""
    return float((one - other).abs().sum() / 2)


def mixed(logits: Tensor, mixture: float) -> Tensor:
    """The opponent."""
    return ((1 - mixture) * logits.log_softmax(0) + mixture * REFERENCE).softmax(0)


def learned(mixture: float, beta: float = BETA, steps: int = 1500, rate: float = 3.0) -> Tensor:
    """Logits after steps along the expected gradient: every answer as often as it is written."""
    logits, loss = REFERENCE.clone(), built(NashMd(beta=beta))
    for _ in range(steps):
        leaf = logits.log_softmax(0).requires_grad_()
        advantage = BEATS @ mixed(logits, mixture) - 0.5
        batch = Batch({LOGPROBS: leaf, LOGPROBS_REF: REFERENCE, ADVANTAGES: advantage, SEQ: torch.arange(3)})
        sums = sum(term.weight * term.total for term in loss(batch).terms.values())
        (each,) = torch.autograd.grad(torch.as_tensor(sums), leaf)
        weighed = leaf.detach().exp() * each
        logits = logits - rate * (weighed - leaf.detach().exp() * weighed.sum())
    return logits


def test_self_play_reaches_the_equilibrium_of_a_preference_that_goes_round() -> None:
    assert apart(learned(0.0).softmax(0), equilibrium(BETA)) < 1e-4
    assert apart(REFERENCE.exp(), equilibrium(BETA)) > 0.1


def test_no_policy_is_preferred_to_the_equilibrium_for_what_it_costs() -> None:
    nash = equilibrium(BETA)
    others = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e-3
    for other in others / others.sum(1, keepdim=True):
        assert nash @ BEATS @ other - BETA * kl(nash) + BETA * kl(other) >= 0.5


@pytest.mark.parametrize("mixture", [0.125, 0.5])
def test_with_a_mixture_the_opponent_is_an_equilibrium_and_the_policy_the_best_answer_to_it(mixture: float) -> None:
    logits = learned(mixture)
    opponent = equilibrium(BETA / (1 - mixture))
    assert apart(mixed(logits, mixture), opponent) < 1e-4
    assert apart(logits.softmax(0), (REFERENCE + BEATS @ opponent / BETA).softmax(0)) < 1e-4


def test_the_highest_reward_is_somewhere_else() -> None:
    # The reward of Bradley and Terry that fits these preferences best, between answers of the reference.
    reward = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    often = REFERENCE.exp()[:, None] * REFERENCE.exp()[None, :] * BEATS
    optimizer = torch.optim.LBFGS([reward], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def again() -> Tensor:
        optimizer.zero_grad()
        misfit = -(often * torch.nn.functional.logsigmoid(reward[:, None] - reward[None, :])).sum()
        misfit.backward()
        return misfit

    optimizer.step(again)
    nash, highest = equilibrium(BETA), (REFERENCE + reward.detach() / BETA).softmax(0)
    assert apart(highest, nash) > 0.3
    assert apart(highest, learned(0.0).softmax(0)) > 0.3
    assert nash @ BEATS @ highest - BETA * kl(nash) + BETA * kl(highest) > 0.55
    assert float((BEATS @ highest).max()) > 0.65, "and there is an answer that is mostly preferred to it"


def test_sampled_comparisons_lead_to_the_same_equilibrium() -> None:
    random, count = torch.Generator().manual_seed(0), 128
    logits, loss = REFERENCE.clone(), built(NashMd(beta=BETA))
    advantages = NashAdvantage().build(Run("test", Path(), 0, Bus()))
    tail: list[Tensor] = []
    for step in range(400):
        policy = logits.softmax(0)
        own = torch.multinomial(policy, count, replacement=True, generator=random)
        others = torch.multinomial(mixed(logits, 0.0), count, replacement=True, generator=random)
        # A judge of pairs says who is better, and is not consistent from pair to pair: a group is one pair.
        won = BEATS[own, others]
        wave = Batch(
            {
                IDS: [str(at) for at in range(count)],
                GROUP: torch.arange(count).repeat_interleave(2),
                SEQ: torch.arange(2 * count),
                OPPONENT: torch.tensor([0, 1] * count),
                SCORES: torch.stack([won.logit(), torch.zeros(count, dtype=torch.float64)], 1).flatten(),
                TOKENS: torch.stack([own, others], 1).flatten(),
            }
        )
        wave = advantages.estimate(wave)
        free = logits.clone().requires_grad_()
        batch = wave.put_all({LOGPROBS: free.log_softmax(0)[wave[TOKENS]], LOGPROBS_REF: REFERENCE[wave[TOKENS]]})
        (slope,) = torch.autograd.grad(objective(loss(batch), batch), free)
        logits = logits - 3.0 / (1 + step / 50) * slope
        if step >= 200:
            tail.append(logits.softmax(0))
    assert apart(torch.stack(tail).mean(0), equilibrium(BETA)) < 0.03

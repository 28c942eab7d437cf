"""What makes pairs and advantages of sampled completions, and XPO: against their papers and in a small world."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from truing.bus import Bus
from truing.fields import (
    ADVANTAGES,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    OPPONENT,
    REJECTED,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
)
from truing.run import Run
from truing.testing import check_spec
from truing_preference.plugin import BestAgainstWorst, Dpo, NashAdvantage, NashMd, Xpo
from truing_tensor.testing import check_loss

from . import papers
from .conftest import batch_of, built, objective, pair_data
from .papers import Data, Number

EXAMPLES = settings(deadline=None, max_examples=40, database=None)


def estimated(spec: Any, batch: Batch) -> Batch:
    return spec.build(Run("test", Path(), 0, Bus())).estimate(batch)


# --- who beats whom ---------------------------------------------------------------------------------------------------

Scored = list[list[tuple[float, int]]]
"""For each group its completions, as a score and 1 for the opponent's."""


def scored(groups: Scored) -> Batch:
    """Completion n has n % 3 + 1 tokens, and they are all n."""
    flat = [(at, score, wrote) for at, some in enumerate(groups) for score, wrote in some]
    lengths = torch.tensor([n % 3 + 1 for n in range(len(flat))], dtype=torch.int64)
    owners = torch.arange(len(flat)).repeat_interleave(lengths)
    return Batch(
        {
            IDS: [f"g{at}" for at in range(len(groups))],
            GROUP: torch.tensor([at for at, _, _ in flat], dtype=torch.int64),
            SCORES: torch.tensor([score for _, score, _ in flat], dtype=torch.float64),
            OPPONENT: torch.tensor([wrote for _, _, wrote in flat], dtype=torch.int64),
            COMPLETIONS: [str(n) for n in range(len(flat))],
            SEQ: owners,
            TOKENS: owners.clone(),
        }
    )


def test_an_advantage_is_the_mean_probability_of_beating_the_opponents_less_one_half() -> None:
    batch = estimated(NashAdvantage(scale=2.0), scored([[(1.0, 0), (0.0, 1), (3.0, 1)], [(5.0, 0)], [(5.0, 1)]]))
    expected = (1 / (1 + math.exp(-0.5)) + 1 / (1 + math.exp(1.0))) / 2 - 0.5
    assert batch[IDS] == ["g0"]
    assert batch[ADVANTAGES].tolist() == pytest.approx([expected])


def test_hard_comparisons_count_wins_and_half_of_the_ties() -> None:
    batch = estimated(NashAdvantage(hard=True), scored([[(1.0, 0), (2.0, 0), (1.0, 1), (2.0, 1), (0.0, 1), (9.0, 1)]]))
    assert batch[COMPLETIONS] == ["0", "1"]
    assert batch[ADVANTAGES].tolist() == pytest.approx([1.5 / 4 - 0.5] + 2 * [2.5 / 4 - 0.5])


some_groups = st.lists(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 1)), min_size=1, max_size=5), min_size=1, max_size=4
)


@given(some_groups, st.floats(0.1, 5), st.booleans())
@EXAMPLES
def test_only_the_policys_completions_are_left_each_with_its_own_advantage(
    groups: Scored, scale: float, hard: bool
) -> None:
    batch = estimated(NashAdvantage(scale=1.0 if hard else scale, hard=hard), scored(groups))
    told: list[tuple[int, list[float]]] = []
    kept = [some for some in groups if {wrote for _, wrote in some} == {0, 1}]
    numbers = iter(range(99))
    for some in groups:
        mine = [next(numbers) for _ in some]
        others = [score for score, wrote in some if wrote]
        for number, (score, wrote) in zip(mine, some, strict=True):
            if not wrote and others:
                leads = [score - other for other in others]
                wins = [(d > 0) + 0.5 * (d == 0) if hard else 1 / (1 + math.exp(-d / scale)) for d in leads]
                told.append((number, [sum(wins) / len(wins) - 0.5] * (number % 3 + 1)))
    assert batch[IDS] == [f"g{at}" for at, some in enumerate(groups) if some in kept]
    assert batch[COMPLETIONS] == [str(number) for number, _ in told]
    assert batch[TOKENS].tolist() == [number for number, some in told for _ in some]
    assert batch[SEQ].tolist() == [at for at, (_, some) in enumerate(told) for _ in some]
    assert batch[ADVANTAGES].tolist() == pytest.approx([value for _, some in told for value in some], abs=1e-12)
    assert not batch[OPPONENT].any()


@given(some_groups, st.floats(0, 2))
@EXAMPLES
def test_pairs_across_are_the_furthest_apart_of_the_policys_and_the_opponents(groups: Scored, least: float) -> None:
    batch = estimated(BestAgainstWorst(across=True, least=least), scored(groups))
    found = dict(zip(batch[IDS], zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), strict=True), strict=True))
    for at, some in enumerate(groups):
        leads = [abs(a - b) for a, one in some for b, other in some if one != other]
        assert (f"g{at}" in found) == (max(leads, default=0.0) > least)
        if f"g{at}" in found:
            best, worst = found[f"g{at}"]
            assert float(batch[SCORES][best] - batch[SCORES][worst]) == pytest.approx(max(leads))
            assert int(batch[OPPONENT][best]) != int(batch[OPPONENT][worst])
            assert batch[GROUP][best] == batch[GROUP][worst] == batch[IDS].index(f"g{at}")


def test_the_specs_keep_their_promises() -> None:
    for spec in (NashAdvantage, BestAgainstWorst, NashMd, Xpo):
        check_spec(spec)
    assert OPPONENT in BestAgainstWorst(across=True).requires() - BestAgainstWorst().requires()
    assert [fault.option for fault in NashAdvantage(hard=True, scale=2.0).problems()] == ["scale"]


# --- XPO --------------------------------------------------------------------------------------------------------------


def paper_of_xpo(data: Data, wrote: list[int], beta: float, alpha: float) -> Number:
    """Algorithm 1, line 5, over the pairs of a step: alpha log pi of the sampling policy's answers, plus DPO."""
    known = [data.log_pi(y) for pair in data.pairs for y in pair if wrote[y]]
    return papers.dpo(data, beta) + alpha * sum(known) / len(data.pairs)


@given(data=pair_data(), alpha=st.floats(0, 2), seed=st.integers(0, 99))
@EXAMPLES
def test_xpo_and_its_gradient_are_the_papers(data: Data, alpha: float, seed: int) -> None:
    wrote = torch.randint(2, (len(data.policy),), generator=torch.Generator().manual_seed(seed)).tolist()
    batch = batch_of(data).put(OPPONENT, torch.tensor(wrote))
    found = objective(built(Xpo(beta=0.3, alpha=alpha))(batch), batch)
    (slope,) = torch.autograd.grad(found, batch[LOGPROBS])
    paper = papers.gradient(lambda d: paper_of_xpo(d, wrote, 0.3, alpha), data)
    assert float(found.detach()) == pytest.approx(paper_of_xpo(data, wrote, 0.3, alpha).real, rel=1e-10, abs=1e-10)
    assert slope.tolist() == pytest.approx(paper, rel=1e-10, abs=1e-10)


def test_xpo_without_its_weight_is_dpo_and_reports_what_dpo_does() -> None:
    data = Data([[-1.0, -2.0], [-4.0]], [[-2.0, -2.0], [-3.0]], pairs=[(0, 1)])
    batch = batch_of(data).put(OPPONENT, torch.tensor([0, 1]))
    ours, dpo = built(Xpo(alpha=0.0))(batch), built(Dpo())(batch)
    assert float(objective(ours, batch).detach()) == pytest.approx(float(objective(dpo, batch).detach()))
    assert ours.metrics.keys() - dpo.metrics.keys() == {"logprob/opponent"}
    assert float(ours.metrics["logprob/opponent"].total.detach()) == -4.0


def test_xpo_does_its_arithmetic_right_however_a_batch_is_cut() -> None:
    check_loss(Xpo(alpha=0.5))


UNSEEN = 3
"""The one of four answers that nobody has said yet; the policy said 0 and 2, the reference 1."""


def explored(alpha: float) -> Tensor:
    """Log-probabilities of four answers after steps on comparisons with what the reference said: of four each, 0 won
    three and 2 won one."""
    reference = torch.tensor([0.3, 0.5, 0.15, 0.05], dtype=torch.float64).log()
    logits, loss = reference.clone().requires_grad_(), built(Xpo(beta=1.0, alpha=alpha))
    said = torch.tensor([0, 1, 2, 1])
    better, worse = [0, 0, 0, 1, 2, 3, 3, 3], [1, 1, 1, 0, 3, 2, 2, 2]
    for _ in range(300):
        batch = Batch(
            {
                LOGPROBS: logits.log_softmax(0)[said],
                LOGPROBS_REF: reference[said],
                SEQ: torch.arange(4),
                CHOSEN: torch.tensor(better),
                REJECTED: torch.tensor(worse),
                OPPONENT: torch.tensor([0, 1, 0, 1]),
            }
        )
        (slope,) = torch.autograd.grad(objective(loss(batch), batch), logits)
        logits = (logits - slope).detach().requires_grad_()
    return logits.log_softmax(0).detach()


def test_what_xpo_takes_from_the_reference_goes_to_what_nobody_has_said() -> None:
    dpo, some, more = explored(0.0), explored(0.05), explored(0.1)
    assert more[1] < some[1] < dpo[1], "what the reference said becomes less likely"
    assert dpo[UNSEEN] + 0.3 < some[UNSEEN] < more[UNSEEN] - 0.3
    for found in (dpo, some, more):
        assert found[2] < found[1] < found[0], "and what was compared stays in its order"

"""Batches of raw numbers, and what a step makes of a loss on them."""

from __future__ import annotations

import random
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from truing.fields import (
    CHOSEN,
    COLLISION_ENTROPY,
    GROUP,
    LABEL,
    LOGPROBS,
    LOGPROBS_REF,
    MARGIN,
    MISMATCHED,
    RANK,
    REJECTED,
    SEQ,
    SOFT,
    Batch,
)
from truing.stage import Loss, LossSpec, LossValue, Term
from truing_model.step import with_correlations

from .papers import Data


def built(spec: LossSpec) -> Loss:
    """The loss of a spec; it is built from its options alone."""
    nobody: Any = None
    return spec.build(nobody)


def batch_of(data: Data) -> Batch:
    """The batch of some data, in float64, its log-probabilities ready for a gradient."""
    lengths = torch.tensor([len(tokens) for tokens in data.policy])
    policy = [complex(value).real for tokens in data.policy for value in tokens]
    batch = Batch(
        {
            LOGPROBS: torch.tensor(policy, dtype=torch.float64).requires_grad_(),
            LOGPROBS_REF: torch.tensor([v for tokens in data.reference for v in tokens], dtype=torch.float64),
            SEQ: torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        }
    )
    if data.squares:
        squares = torch.tensor([value for tokens in data.squares for value in tokens], dtype=torch.float64)
        batch = batch.put(COLLISION_ENTROPY, -squares.log())
    if data.pairs:
        batch = batch.put(CHOSEN, torch.tensor([better for better, _ in data.pairs]))
        batch = batch.put(REJECTED, torch.tensor([worse for _, worse in data.pairs]))
    for field, values in ((SOFT, data.soft), (MARGIN, data.margin)):
        batch = batch.put(field, torch.tensor(values, dtype=torch.float64)) if values else batch
    for field, whole in ((LABEL, data.label), (MISMATCHED, data.mismatched), (GROUP, data.group), (RANK, data.rank)):
        batch = batch.put(field, torch.tensor(whole)) if whole else batch
    return batch


def total(term: Term, batch: Batch) -> Tensor:
    """What a term adds to the loss of a step that is this batch."""
    counts = {
        "token": len(batch[LOGPROBS]),
        "seq": int(batch[SEQ].max()) + 1,
        "pair": len(batch[CHOSEN]) if CHOSEN in batch else 0,
        "group": int(batch[GROUP].max()) + 1 if GROUP in batch else 0,
    }
    return term.weight * term.total / (counts[term.per] if isinstance(term.per, str) else term.per)


def objective(value: LossValue, batch: Batch) -> Tensor:
    """What a step minimises."""
    return torch.stack([total(term, batch) for term in value.terms.values()]).sum()


def loss_and_gradient(spec: LossSpec, data: Data) -> tuple[float, list[float]]:
    """A step's loss and its derivative by every token of the policy."""
    batch = batch_of(data)
    found = objective(built(spec)(batch), batch)
    (slope,) = torch.autograd.grad(found, batch[LOGPROBS])
    return float(found.detach()), slope.tolist()


def metrics(spec: LossSpec, data: Data) -> dict[str, float]:
    """What a step reports."""
    batch = batch_of(data)
    means = {name: float(total(term, batch).detach()) for name, term in built(spec)(batch).metrics.items()}
    return with_correlations(means)


_logprob = st.floats(-3.0, -0.05)
_tokens = st.lists(st.tuples(_logprob, _logprob), min_size=1, max_size=4)


@st.composite
def pair_data(draw: st.DrawFn) -> Data:
    """Any completions and any pairs of them, with soft labels and margins, in a vocabulary of any sharpness."""
    drawn = draw(st.lists(_tokens, min_size=2, max_size=6))
    index = st.integers(0, len(drawn) - 1)
    pairs = draw(st.lists(st.tuples(index, index).filter(lambda p: p[0] != p[1]), min_size=1, max_size=5))
    numbers = st.lists(st.sampled_from((0.0, 0.25, 0.5, 0.9, 1.0)), min_size=len(pairs), max_size=len(pairs))
    squares = [draw(st.lists(st.floats(0.01, 1.0), min_size=len(some), max_size=len(some))) for some in drawn]
    return Data(*_both(drawn), squares, pairs, draw(numbers), draw(numbers))


@st.composite
def scattered_pairs(draw: st.DrawFn) -> Data:
    """Pairs no two numbers of which are equal, so that there is one order to sort them in."""
    chance = random.Random(draw(st.integers()))
    size = 2 * chance.randint(1, 6)
    lengths = [chance.randint(1, 4) for _ in range(size)]
    policy, reference = ([[chance.uniform(-3, -0.05) for _ in range(n)] for n in lengths] for _ in range(2))
    return Data(policy, reference, pairs=[(at, at + 1) for at in range(0, size, 2)])


@st.composite
def labelled_data(draw: st.DrawFn) -> Data:
    """Labelled completions, the last of which are for other prompts."""
    drawn = draw(st.lists(_tokens, min_size=3, max_size=8))
    size = len(drawn)
    label = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    strangers = draw(st.integers(1, size - 1))
    return Data(*_both(drawn), label=label, mismatched=[0] * (size - strangers) + [1] * strangers)


@st.composite
def ranked_data(draw: st.DrawFn) -> Data:
    """Groups of ranked completions; some may be tied, but not all of a group."""
    group, rank = list[int](), list[int]()
    for at in range(draw(st.integers(1, 3))):
        ranks = draw(st.lists(st.integers(0, 3), min_size=2, max_size=4).filter(lambda some: len(set(some)) > 1))
        group += [at] * len(ranks)
        rank += ranks
    drawn = draw(st.lists(_tokens, min_size=len(rank), max_size=len(rank)))
    return Data(*_both(drawn), group=group, rank=rank)


def _both(drawn: list[list[tuple[float, float]]]) -> tuple[list[list[float]], list[list[float]]]:
    return [[p for p, _ in tokens] for tokens in drawn], [[r for _, r in tokens] for tokens in drawn]

"""Scores made up, and what a step makes of a loss on them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from truing.fields import CHOSEN, GROUP, IDS, LABEL, MARGIN, RANK, REJECTED, SCORES, SEQ, SOFT, Batch
from truing.stage import Loss, LossSpec, LossValue
from truing_model.step import StepSums, counts_of

from .papers import Data


def built(spec: LossSpec) -> Loss:
    """The loss of a spec; it is built from its options alone."""
    nobody: Any = None
    return spec.build(nobody)


def batch_of(data: Data) -> Batch:
    """The batch of some data, in float64, its scores ready for a gradient."""
    count = len(data.scores)
    batch = Batch(
        {
            IDS: [f"prompt {number}" for number in sorted(set(data.group))],
            GROUP: torch.tensor(data.group),
            SCORES: torch.tensor([complex(score).real for score in data.scores], dtype=torch.float64).requires_grad_(),
            SEQ: torch.repeat_interleave(torch.arange(count), torch.tensor(data.length)),
        }
    )
    if data.pairs:
        batch = batch.put(CHOSEN, torch.tensor([better for better, _ in data.pairs]))
        batch = batch.put(REJECTED, torch.tensor([worse for _, worse in data.pairs]))
    for field, values in ((SOFT, data.soft), (MARGIN, data.margin)):
        batch = batch.put(field, torch.tensor(values, dtype=torch.float64)) if values else batch
    for field, whole in ((RANK, data.rank), (LABEL, data.label)):
        batch = batch.put(field, torch.tensor(whole)) if whole else batch
    return batch


def objective(value: LossValue, batch: Batch) -> Tensor:
    """What a step minimises."""
    sums = StepSums(counts_of(batch))
    return torch.stack([term.weight * term.total / sums.denominator(term) for term in value.terms.values()]).sum()


def loss_and_gradient(spec: LossSpec, data: Data) -> tuple[float, list[float]]:
    """A step's loss and its derivative by every score."""
    batch = batch_of(data)
    found = objective(built(spec)(batch), batch)
    (slope,) = torch.autograd.grad(found, batch[SCORES])
    return float(found.detach()), slope.tolist()


def reported(spec: LossSpec, step: Batch, pieces: list[Batch] | None = None) -> dict[str, float]:
    """What a step reports, cut into pieces or whole."""
    sums = StepSums(counts_of(step))
    for piece in pieces or [step]:
        sums.look(built(spec), piece, Batch())
    return sums.report()


def pair(won: float, lost: float, **said: Any) -> Data:
    """One pair of one prompt."""
    return Data([won, lost], [3, 2], [0, 0], pairs=[(0, 1)], **said)


_score = st.floats(-5, 5)
_length = st.integers(1, 6)


@st.composite
def pair_data(draw: st.DrawFn) -> Data:
    """Some prompts with two and more completions, all or some of their pairs compared, in either order."""
    group, pairs = list[int](), list[tuple[int, int]]()
    for number in range(draw(st.integers(1, 3))):
        start, size = len(group), draw(st.integers(2, 4))
        group += [number] * size
        index = st.integers(start, start + size - 1)
        pairs += draw(st.lists(st.tuples(index, index).filter(lambda p: p[0] != p[1]), min_size=1, max_size=5))
    count = len(pairs)
    soft = draw(st.lists(st.sampled_from((0.0, 0.3, 0.45, 0.5, 0.7, 1.0)), min_size=count, max_size=count))
    margin = draw(st.lists(st.floats(-1, 3), min_size=count, max_size=count))
    return Data(*_numbers(draw, len(group)), group, pairs, soft, margin)


@st.composite
def ranked_data(draw: st.DrawFn) -> Data:
    """Rankings of two and more completions; some may be tied, all of a prompt too."""
    group, rank = list[int](), list[int]()
    for number in range(draw(st.integers(1, 3))):
        ranks = draw(st.lists(st.integers(0, 3), min_size=2, max_size=5))
        group += [number] * len(ranks)
        rank += ranks
    return Data(*_numbers(draw, len(group)), group, rank=rank)


@st.composite
def labelled_data(draw: st.DrawFn) -> Data:
    """Labelled completions."""
    label = draw(st.lists(st.integers(0, 1), min_size=1, max_size=6))
    return Data(*_numbers(draw, len(label)), [0] * len(label), label=label)


def _numbers(draw: st.DrawFn, count: int) -> tuple[list[float], list[int]]:
    return (
        draw(st.lists(_score, min_size=count, max_size=count)),
        draw(st.lists(_length, min_size=count, max_size=count)),
    )

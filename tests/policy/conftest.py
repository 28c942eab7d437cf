"""Rollouts of raw numbers, and what a step makes of a loss on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from truing.bus import Bus
from truing.fields import (
    ADVANTAGES,
    ENTROPY,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_OLD,
    LOGPROBS_PROXIMAL,
    LOGPROBS_REF,
    LOGPROBS_SAMPLED,
    RETURNS,
    SCORES,
    SEQ,
    VALUES,
    VALUES_OLD,
    Batch,
    Field,
)
from truing.run import Run
from truing.stage import AdvantageSpec, Loss, LossSpec, LossValue, Term
from truing_tensor.groups import count

COLUMNS: dict[str, Field[Tensor]] = {
    "pi": LOGPROBS,
    "old": LOGPROBS_OLD,
    "ref": LOGPROBS_REF,
    "sampled": LOGPROBS_SAMPLED,
    "proximal": LOGPROBS_PROXIMAL,
    "advantage": ADVANTAGES,
    "value": VALUES,
    "value_old": VALUES_OLD,
    "return": RETURNS,
    "entropy": ENTROPY,
}
DIFFERENTIABLE = ("pi", "value", "entropy")

Token = dict[str, float]


@dataclass(frozen=True)
class Rollouts:
    """Completions as lists of tokens, each a number by the name of its column. groups, scores: of each completion."""

    tokens: list[list[Token]]
    groups: list[int] = field(default_factory=list[int])
    scores: list[float] = field(default_factory=list[float])

    def batch(self) -> Batch:
        """In float64, ready for gradients; a column that is not named is 0."""
        flat = [token for completion in self.tokens for token in completion]
        batch = Batch({SEQ: owners([len(completion) for completion in self.tokens])})
        for name, key in COLUMNS.items():
            values = tensor(*(token.get(name, 0.0) for token in flat))
            batch = batch.put(key, values.requires_grad_() if name in DIFFERENTIABLE else values)
        groups = self.groups or [0] * len(self.tokens)
        batch = batch.put_all({GROUP: torch.tensor(groups), IDS: [str(at) for at in range(max(groups) + 1)]})
        return batch.put(SCORES, tensor(*self.scores)) if self.scores else batch


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def number(value: Tensor) -> float:
    return float(value.detach())


def owners(sizes: list[int]) -> Tensor:
    return torch.tensor([at for at, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)


def built(spec: LossSpec) -> Loss:
    """The loss of a spec; it is built from its options alone."""
    nobody: Any = None
    return spec.build(nobody)


def estimated(spec: AdvantageSpec, batch: Batch) -> Batch:
    """A batch after an estimator."""
    return spec.build(Run("test", Path(), 0, Bus())).estimate(batch)


def mean(term: Term, batch: Batch) -> Tensor:
    """A term over its own count."""
    return term.total / (count(batch, term.per) if isinstance(term.per, str) else term.per)


def objective(value: LossValue, batch: Batch) -> Tensor:
    """What a step minimises."""
    return torch.stack([term.weight * mean(term, batch) for term in value.terms.values()]).sum()


def reported(value: LossValue, batch: Batch) -> dict[str, float]:
    """The metrics of a step, those of parts left out."""
    return {name: float(mean(term, batch).detach()) for name, term in value.metrics.items() if "|" not in name}


logprob = st.floats(-3, -0.1)
some_token = st.fixed_dictionaries(
    {
        **dict.fromkeys(("pi", "old", "ref", "sampled", "proximal"), logprob),
        **{name: st.floats(-2, 2) for name in ("advantage", "value", "value_old", "return")},
        "entropy": st.floats(0, 2),
    }
)
some_rollouts = st.lists(st.lists(some_token, min_size=1, max_size=4), min_size=1, max_size=4).map(Rollouts)

"""The loss of the groups that are served worst, by weights that are learned against it (arXiv:1911.08731,
algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from truing.fields import Batch
from truing.stage import Loss, LossValue, Term
from truing_tensor.groups import by_stratum, count


class GroupDro:
    """The sum of q_g L_g. weights: log q_g of each group that was met, but for a constant."""

    def __init__(self, *, loss: Loss, rate: float) -> None:
        self._loss, self._rate = loss, rate
        self._met: dict[str, float] = {}
        self.weights: dict[str, float] = {}

    def __call__(self, batch: Batch) -> LossValue:
        """q_g is proportional to q_g exp(rate L_g), then sum of q_g L_g over the groups that compared something."""
        parts = by_stratum(batch)
        values = {name: self._loss(part) for name, part in parts.items()}
        losses = {name: _total(value.terms, parts[name]) for name, value in values.items()}
        logs = {**dict.fromkeys(losses, 0.0), **self.weights}
        if any(loss.requires_grad for loss in losses.values()):
            for name, loss in losses.items():
                logs[name] += self._rate * float(loss.detach())
            self._met = logs
        share = dict(zip(logs, torch.tensor(list(logs.values()), dtype=torch.float64).softmax(0).tolist(), strict=True))
        robust = torch.stack([share[name] * loss for name, loss in losses.items()]).sum()
        return LossValue(
            {"group-dro": Term(robust, 1.0)}, {**self._loss(batch).metrics, **_by_group(values, parts, losses, share)}
        )

    def begin(self, steps: int) -> None:
        """A phase of so many steps begins."""

    def learned(self) -> None:
        """A step was taken: its weights hold."""
        self.weights = self._met

    def kept(self) -> Mapping[str, Any]:
        """The weights."""
        return {"weights": self.weights}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        self.weights = dict(kept["weights"])


def _total(terms: Mapping[str, Term], batch: Batch) -> Tensor:
    """What a loss comes to on a batch: each term over what it is a mean over."""
    return torch.stack([term.weight * term.total / _denominator(term, batch) for term in terms.values()]).sum()


def _denominator(term: Term, batch: Batch) -> float:
    return max(count(batch, term.per), 1) if isinstance(term.per, str) else term.per


def _by_group(
    values: Mapping[str, LossValue],
    parts: Mapping[str, Batch],
    losses: Mapping[str, Tensor],
    share: Mapping[str, float],
) -> dict[str, Term]:
    """Loss, accuracy and weight of each group, and the worst of them."""
    found = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    found |= {f"weight/{name}": torch.tensor(weight) for name, weight in share.items()}
    found["worst/loss"] = torch.stack([loss.detach() for loss in losses.values()]).max()
    right = {name: value.metrics["accuracy"] for name, value in values.items() if "accuracy" in value.metrics}
    if right:
        rights = {name: term.total / _denominator(term, parts[name]) for name, term in right.items()}
        found |= {f"accuracy/{name}": value for name, value in rights.items()}
        found["worst/accuracy"] = torch.stack(list(rights.values())).min()
    return {name: Term(value, 1.0) for name, value in found.items()}

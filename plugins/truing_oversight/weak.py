"""Labels of a weak supervisor, and the loss of a student that learns from them (arXiv:2312.09390)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, REJECTED, SCORES, SOFT, Batch
from truing.run import Run
from truing.stage import LossValue, Term
from truing_oversight import menu_weak
from truing_tensor.comparisons import half_right
from truing_tensor.groups import take


class WeakLabels:
    """Every two completions of a prompt, and which is the better one in the eyes of who scored them."""

    def __init__(self, spec: menu_weak.WeakLabels, run: Run) -> None:
        self._temperature = spec.temperature
        self._run = run

    def estimate(self, batch: Batch) -> Batch:
        """The batch with CHOSEN, REJECTED and SOFT [pair]. Left out are prompts whose completions all say the same."""
        said = batch[COMPLETIONS]
        members: list[list[int]] = [[] for _ in batch[IDS]]
        for at, group in enumerate(batch[GROUP].tolist()):
            members[group].append(at)
        pairs = [
            self._shuffled(batch, pair)
            for some in members
            for pair in combinations(some, 2)
            if said[pair[0]] != said[pair[1]]
        ]
        first, second = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
        apart = (batch[SCORES][first] - batch[SCORES][second]) / self._temperature
        kept = Batch({key: value for key, value in batch.items() if key.dims != "pair"})
        labelled = kept.put_all({CHOSEN: first, REJECTED: second, SOFT: apart.sigmoid()})
        return take(labelled, torch.unique(batch[GROUP][first]).tolist())

    def _shuffled(self, batch: Batch, pair: tuple[int, int]) -> tuple[int, int]:
        """The two completions in an order that the prompt's id and the texts decide, whichever came first."""
        first, second = sorted(pair, key=lambda at: str(batch[COMPLETIONS][at]))
        texts = [str(batch[COMPLETIONS][at]) for at in (first, second)]
        turned = self._run.seed_for("weak-labels", batch[IDS][int(batch[GROUP][first])], *texts) % 2
        return (second, first) if turned else (first, second)


class WeakToStrong:
    """The loss, which knows how far learning is."""

    def __init__(self, *, confidence: float, warmup: float, balance: Literal["half", "labels"]) -> None:
        self._most, self._warmup, self._balance = confidence, warmup, balance
        self._rising = 1
        self._taken = 0

    def __call__(self, batch: Batch) -> LossValue:
        """CE(f, (1 - a) w + a [f > t]), mean over pairs: arXiv:2312.09390, eq. 1

        f = sigmoid(d) with d the difference of a pair's SCORES [seq], w its SOFT [pair]. No gradient passes through the
        target.
        """
        difference = batch[SCORES][batch[CHOSEN]] - batch[SCORES][batch[REJECTED]]
        weak = batch[SOFT].to(difference)
        share = 0.5 if self._balance == "half" else float(weak.mean())
        own = hardened(difference.detach(), share)
        a = self.confidence
        losses = binary_cross_entropy_with_logits(difference, (1 - a) * weak + a * own, reduction="none")
        naive = binary_cross_entropy_with_logits(difference.detach(), weak, reduction="none")
        agrees = half_right(difference.detach() * (weak - 0.5))
        metrics = {"nll": Term(naive.sum(), "pair"), "agreement": Term(agrees.sum(), "pair")}
        metrics["confidence"] = Term(torch.tensor(a), 1.0)
        return LossValue({"weak-to-strong": Term(losses.sum(), "pair")}, metrics)

    @property
    def confidence(self) -> float:
        """The weight of the student's own mind at this step."""
        return self._most * min(1.0, self._taken / self._rising)

    def begin(self, steps: int) -> None:
        """A phase of so many steps begins."""
        self._rising = max(1, math.ceil(self._warmup * steps))

    def learned(self) -> None:
        """A step was taken."""
        self._taken += 1

    def kept(self) -> Mapping[str, Any]:
        """How many steps were taken."""
        return {"taken": self._taken}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        self._taken = kept["taken"]


def hardened(difference: Tensor, share: float) -> Tensor:
    """1 for the pairs [pair] whose first wins by most, as many as `share` says, 0 for the others."""
    return (difference > torch.quantile(difference, 1 - share)).to(difference)

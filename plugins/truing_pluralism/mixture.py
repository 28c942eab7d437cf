"""Who is of which kind, and what each kind wants: a mixture of Bradley-Terry models by incremental EM.

    E   r_ak  is proportional to  pi_k  prod_j sigmoid(d_jk)           over the comparisons j of annotator a
    M   one optimizer step on    - sum_j r_a(j)k log sigmoid(d_jk)     and pi_k, the mean of r_ak

d_jk is the difference of a pair's scores by head k. Of every comparison the likelihood is remembered that it had when
it was last learned from (Neal and Hinton, 1998), so an E-step asks no model; what a step sees counts from the next step
on, so a step is the same however it is cut.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.fields import ANNOTATOR, CHOSEN, GROUP, IDS, MEMBER_SCORES, REJECTED, Batch
from truing.stage import LossValue, Term
from truing_pluralism.losses import believed, reported

Known = dict[str, dict[str, list[float]]]
"""Of each annotator and each of their comparisons, its log-likelihood under each kind, in nats."""


class Mixture:
    """The loss of a mixture, and what it knows of annotators. known: see above; shares: pi [kind]."""

    def __init__(self, *, soft: bool, warmup: float, hard: bool, prior: float, seed: int) -> None:
        self._soft, self._warmup, self._hard, self._prior, self._seed = soft, warmup, hard, prior, seed
        self._first = self._taken = 0
        self._met: Known = {}
        self._sums: dict[str, list[float]] = {}
        self._held: dict[str, list[float]] = {}
        self.known: Known = {}
        self.shares: list[float] = []

    def __call__(self, batch: Batch) -> LossValue:
        """-sum over k of r_k log p_k, mean over pairs, p_k = sigmoid(d_k) where the first was preferred."""
        scores, names = batch[MEMBER_SCORES], batch[ANNOTATOR]
        difference = scores[batch[CHOSEN]] - scores[batch[REJECTED]]
        target = believed(batch, self._soft, difference)
        each = target[:, None] * logsigmoid(difference) + (1 - target[:, None]) * logsigmoid(-difference)
        if each.requires_grad:
            for name, pair, row in zip(names, _pairs(batch), each.tolist(), strict=True):
                self._met.setdefault(name, {})[pair] = row
        held = {name: self.belongs(name, scores.shape[1]) for name in dict.fromkeys(names)}
        weights = difference.new_tensor([held[name] for name in names])
        loss = -(weights * each).sum()
        return LossValue({"mixture": Term(loss, "pair")}, self._reported(difference, target, weights))

    def belongs(self, name: str, kinds: int) -> list[float]:
        """How likely an annotator is of each kind: as given by chance while it is early, then by what they compared."""
        if self._taken < self._first:
            chance = random.Random(f"{self._seed}/{name}")
            drawn = [chance.expovariate(1) for _ in range(kinds)]
            return [each / sum(drawn) for each in drawn]
        seen = self._sums.get(name, [0.0] * kinds)
        said = [math.log(share) + each for share, each in zip(self.shares or [1.0] * kinds, seen, strict=True)]
        if self._hard and name in self._sums:
            return [float(at == said.index(max(said))) for at in range(kinds)]
        likely = [math.exp(each - max(said)) for each in said]
        return [each / sum(likely) for each in likely]

    def begin(self, steps: int) -> None:
        """A phase of so many steps begins."""
        self._first = math.ceil(self._warmup * steps)

    def learned(self) -> None:
        """A step was taken: what it saw is known, and those who compared are judged anew."""
        self._taken += 1
        for name, pairs in self._met.items():
            self.known.setdefault(name, {}).update(pairs)
            self._sums[name] = _summed(self.known[name])
            self._held[name] = self.belongs(name, len(self._sums[name]))
        self._met = {}
        total = [sum(column) + self._prior for column in zip(*self._held.values(), strict=True)]
        self.shares = [each / sum(total) for each in total]

    def kept(self) -> Mapping[str, Any]:
        """What it knows. belongs: how likely each annotator is of each kind, as of when they were last met."""
        return {"taken": self._taken, "shares": self.shares, "belongs": self._held, "known": self.known}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        self._taken, self.shares, self._held = kept["taken"], kept["shares"], dict(kept["belongs"])
        self.known = {name: dict(pairs) for name, pairs in kept["known"].items()}
        self._sums = {name: _summed(pairs) for name, pairs in self.known.items()}

    def _reported(self, difference: Tensor, target: Tensor, weights: Tensor) -> Mapping[str, Term]:
        """What the mixture says of pairs, each by whoever compared it."""
        difference = difference.detach()
        won, lost = ((weights.log() + logsigmoid(side)).logsumexp(1) for side in (difference, -difference))
        nll = -target * won - (1 - target) * lost
        sure = weights.max(1).values
        shares = {f"share/{kind}": column for kind, column in enumerate(weights.unbind(1))}
        return reported(won - lost, target, {"nll": nll, "sure": sure, **shares})


def _summed(pairs: Mapping[str, Sequence[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*pairs.values(), strict=True)]


def _pairs(batch: Batch) -> list[str]:
    """A name for each pair [pair], the same in every epoch: its prompt, and its place among the pairs of that."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for group in batch[GROUP][batch[CHOSEN]].tolist():
        name = batch[IDS][group]
        seen[name] = seen.get(name, -1) + 1
        found.append(f"{name}#{seen[name]}")
    return found

"""Which of what was sampled is learned from at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from truing.errors import Problem, UserError, did_you_mean
from truing.fields import ADVANTAGES, GROUP, IDS, OPPONENT, SCORE_PARTS, SCORES, SEQ, Batch
from truing.run import Run
from truing_policy import menu_advantages as menu
from truing_policy.rewards import of_completions
from truing_tensor.groups import take, take_completions
from truing_tensor.segments import segment_mean


class BestOfGroup:
    """The best completions of each group."""

    def __init__(self, spec: menu.BestOfGroup, run: Run) -> None:
        self._keep = spec.keep

    def estimate(self, batch: Batch) -> Batch:
        """The batch with the best-scored completions of each group alone; groups that score all alike are left out."""
        batch = take(batch, differing(batch[SCORES], batch[GROUP], len(batch[IDS])))
        group, scores = batch[GROUP], batch[SCORES]
        kept = torch.zeros(len(group), dtype=torch.bool)
        for number in range(len(batch[IDS])):
            mine = torch.nonzero(group == number).flatten()
            kept[mine[scores[mine].argsort(descending=True, stable=True)[: self._keep]]] = True
        return take_completions(batch, kept)


class Remax:
    """What a rollout is worth beyond the greedy completion of its prompt."""

    def __init__(self, spec: menu.Remax, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The rollouts alone, with ADVANTAGES [token]: their rewards less those of what is marked as OPPONENT [seq]."""
        group, greedy = batch[GROUP], batch[OPPONENT] == 1
        both = set(group[greedy].tolist()) & set(group[~greedy].tolist())
        batch = take(batch, sorted(both))
        group, greedy = batch[GROUP], batch[OPPONENT] == 1
        rewards = of_completions(batch, self._spec)
        baseline = segment_mean(rewards[greedy], group[greedy], len(batch[IDS]))
        rollouts = take_completions(batch, ~greedy)
        return rollouts.put(ADVANTAGES, (rewards - baseline[group])[~greedy][rollouts[SEQ]])


class DynamicSampling:
    """Groups whose scores differ, as another estimator sees them."""

    def __init__(self, spec: menu.DynamicSampling, run: Run) -> None:
        self._part = spec.part
        self._of = spec.of.build(run) if spec.of else None

    def estimate(self, batch: Batch) -> Batch:
        """What the other estimator makes of the groups whose scores are not all equal.

        Raises UserError for a score that no scorer of the mix gave.
        """
        scores = self._named(batch[SCORE_PARTS]) if self._part else batch[SCORES]
        batch = take(batch, differing(scores, batch[GROUP], len(batch[IDS])))
        return self._of.estimate(batch) if self._of and batch[IDS] else batch

    def _named(self, parts: Sequence[Mapping[str, float]]) -> Tensor:
        if parts and self._part not in parts[0]:
            what = f'no scorer of the mix is called "{self._part}"'
            raise UserError(Problem("[advantage] part", what, did_you_mean(self._part, parts[0])))
        return torch.tensor([part[self._part] for part in parts])


def differing(scores: Tensor, group: Tensor, count: int) -> list[int]:
    """The groups, of `count`, not all of whose scores [seq] are equal."""
    least = scores.new_full((count,), float("inf")).scatter_reduce(0, group, scores, "amin")
    most = scores.new_full((count,), float("-inf")).scatter_reduce(0, group, scores, "amax")
    return torch.nonzero(most > least).flatten().tolist()

"""Advantages that compare the rollouts of one prompt with each other: no value model, the group is the baseline."""

from __future__ import annotations

from torch import Tensor

from truing.fields import ADVANTAGES, GROUP, SCORES, SEQ, Batch
from truing.run import Run
from truing_policy import plugin
from truing_tensor.segments import segment_mean, segment_sum


class GroupRelative:
    """The advantage of a rollout over its group, the same at each of its tokens."""

    def __init__(self, spec: plugin.GroupRelative, run: Run) -> None:
        self._scale = spec.scale

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES [token]."""
        advantage = group_advantage(batch[SCORES], batch[GROUP], scale=self._scale)
        return batch.put(ADVANTAGES, advantage[batch[SEQ]])


def group_advantage(scores: Tensor, group: Tensor, *, scale: bool) -> Tensor:
    """Score minus the mean of its group [seq], over the group's standard deviation if `scale`.

    scores [seq]: reward of each rollout; group [seq]: which prompt it belongs to. The deviation is over the group
    itself, ddof 0, as in GRPO (arXiv:2402.03300, section 4.1.2); without it, Dr. GRPO (arXiv:2503.20783, section 3.1).
    A group whose scores are all equal has advantage 0 everywhere.
    """
    count = int(group.max()) + 1
    centred = scores - segment_mean(scores, group, count)[group]
    if not scale:
        return centred
    sizes = segment_sum(scores.new_ones(len(scores)), group, count)
    deviation = (segment_sum(centred.square(), group, count) / sizes).sqrt()[group]
    # Equal scores differ from their mean by rounding alone, and that must not be blown up.
    teaches = deviation > 1e-6 * (1 + scores.abs())
    return (centred / deviation.where(teaches, deviation.new_ones(()))) * teaches

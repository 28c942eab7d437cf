"""Advantages that compare the rollouts of one prompt, or of one batch, with each other: no value model.

The group is the baseline. GRPO divides by the group's standard deviation, Dr. GRPO does not, RLOO leaves the rollout
itself out of its baseline, and REINFORCE++ compares with all tokens of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from truing.errors import RunFailed
from truing.fields import ADVANTAGES, GROUP, SCORES, SEQ, Batch
from truing.run import Run
from truing_policy import menu_advantages as menu
from truing_policy.rewards import of_completions, of_tokens
from truing_tensor.segments import segment_mean, segment_rest, segment_sum

ROUNDING = 1e-6
"""Equal numbers differ from their mean by rounding alone, and that must not be blown up."""


class GroupRelative:
    """The advantage of a rollout over its group, the same at each of its tokens."""

    def __init__(self, spec: menu.GroupRelative, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES [token]."""
        rewards = of_completions(batch, self._spec)
        advantage = group_advantage(rewards, batch[GROUP], scale=self._spec.scale, level=self._spec.expectile)
        return batch.put(ADVANTAGES, advantage[batch[SEQ]])


class LeaveOneOut:
    """The advantage of a rollout over the others of its group, the same at each of its tokens."""

    def __init__(self, spec: menu.LeaveOneOut, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES [token]. Raises RunFailed where every rollout is alone in its group."""
        advantage = left_out(of_completions(batch, self._spec), batch[GROUP])
        return batch.put(ADVANTAGES, advantage[batch[SEQ]])


class Whitened:
    """The reward to come at each token, against all tokens of the batch."""

    def __init__(self, spec: menu.Whitened, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES [token], of mean 0 and standard deviation 1."""
        scores, group = batch[SCORES], batch[GROUP]
        if self._spec.baseline == "group":
            batch = batch.put(SCORES, scores - segment_mean(scores, group, int(group.max()) + 1)[group])
        rest = segment_rest(of_tokens(batch, self._spec), batch[SEQ], len(scores))
        return batch.put_all({ADVANTAGES: whitened(rest), SCORES: scores})


def group_advantage(rewards: Tensor, group: Tensor, *, scale: bool, level: float = 0.5) -> Tensor:
    """Reward minus the mean of its group [seq], or another expectile, over the group's standard deviation if `scale`.

    rewards [seq] of each rollout; group [seq]: which prompt it belongs to. The deviation is over the group itself, ddof
    0, as in GRPO (arXiv:2402.03300, section 4.1.2); without it, Dr. GRPO (arXiv:2503.20783, section 3.1). A group whose
    rewards are all equal has advantage 0 everywhere.
    """
    count = int(group.max()) + 1
    centred = rewards - segment_mean(rewards, group, count)[group]
    apart = centred if level == 0.5 else rewards - expectiles(rewards, group, count, level)[group]
    if not scale:
        return apart
    sizes = segment_sum(rewards.new_ones(len(rewards)), group, count)
    deviation = (segment_sum(centred.square(), group, count) / sizes).sqrt()[group]
    teaches = deviation > ROUNDING * (1 + rewards.abs())
    return (apart / deviation.where(teaches, deviation.new_ones(()))) * teaches


def expectiles(values: Tensor, group: Tensor, count: int, level: float) -> Tensor:
    """The expectile of values [seq] in each of `count` groups: what minimises the mean of |level - [v < e]| (v - e)^2.

    Newey and Powell (1987); what implicit Q-learning lets a value function learn (arXiv:2110.06169, eq. 5). It is the
    mean of values that are weighed by the side on which they lie, found once no value changes sides any more.
    """
    found = segment_mean(values, group, count)
    for _ in range(len(values) + 1):
        weights = values.new_full((len(values),), 1 - level).masked_fill(values > found[group], level)
        following = segment_sum(weights * values, group, count) / segment_sum(weights, group, count).clamp(min=1e-30)
        if bool(torch.isclose(following, found, rtol=1e-12, atol=1e-15).all()):
            break
        found = following
    return found


def left_out(rewards: Tensor, group: Tensor) -> Tensor:
    """Reward minus the mean of the others of its group [seq]; 0 for one that is alone.

    R_i - 1/(k-1) sum over j != i of R_j = k/(k-1) (R_i - mean R) (RLOO, arXiv:2402.14740). Raises RunFailed
    where no group has more than one.
    """
    count = int(group.max()) + 1
    sizes = segment_sum(rewards.new_ones(len(rewards)), group, count)[group]
    if bool((sizes < 2).all()):
        raise RunFailed("every completion is alone in its group, so there is none to compare it with: sample several")
    centred = rewards - segment_mean(rewards, group, count)[group]
    return centred * (sizes / (sizes - 1).clamp(min=1))


def whitened(values: Tensor) -> Tensor:
    """Values [token] of mean 0 and standard deviation 1, ddof 0; 0 everywhere where they are all equal."""
    centred = values - values.mean()
    deviation = centred.square().mean().sqrt()
    if bool(deviation <= ROUNDING * (1 + values.abs().max())):
        return torch.zeros_like(values)
    return centred / deviation

"""Advantages that differ from token to token: of rewards still to come, against values, or step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from truing.fields import ADVANTAGES, GROUP, RETURNS, SCORES, SEQ, STEP_END, STEP_SCORES, STEP_SEQ, VALUES_OLD, Batch
from truing.run import Run
from truing_policy import menu_advantages as menu
from truing_policy.advantages import group_advantage, whitened
from truing_policy.rewards import of_tokens
from truing_tensor.segments import segment_rest


class Gae:
    """Generalized advantages."""

    def __init__(self, spec: menu.Gae, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES and RETURNS [token]; returns are those before advantages are whitened."""
        spec, values = self._spec, batch[VALUES_OLD]
        found = generalized(of_tokens(batch, spec), values, batch[SEQ], spec.discount, spec.trace)
        advantages = whitened(found) if spec.whiten else found
        return batch.put_all({ADVANTAGES: advantages, RETURNS: found + values})


class MonteCarlo:
    """Returns as they came."""

    def __init__(self, spec: menu.MonteCarlo, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES [token]."""
        rewards = of_tokens(batch, self._spec)
        # What is expected of every state to be 0, and believed in nothing, leaves the rewards as they came.
        found = generalized(rewards, torch.zeros_like(rewards), batch[SEQ], self._spec.discount, 1.0)
        return batch.put(ADVANTAGES, whitened(found) if self._spec.whiten else found)


class Process:
    """The rewards of the steps to come, each against those of its group."""

    def __init__(self, spec: menu.Process, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The batch with ADVANTAGES [token]."""
        seq, group = batch[SEQ], batch[GROUP]
        right = batch[STEP_SCORES].sigmoid()
        gains = torch.zeros(len(seq), dtype=right.dtype)
        if len(right):
            each = group_advantage(right, group[batch[STEP_SEQ]], scale=self._spec.scale)
            gains = gains.index_add(0, batch[STEP_END], each)
        found = segment_rest(gains, seq, len(group))
        if self._spec.outcome:
            whole = group_advantage(batch[SCORES], group, scale=self._spec.scale)
            found = found + self._spec.outcome * whole[seq]
        return batch.put(ADVANTAGES, found)


def generalized(rewards: Tensor, values: Tensor, seq: Tensor, discount: float, trace: float) -> Tensor:
    """A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t; behind the last token both are 0.

    rewards, values [token]: V_t is what is expected before token t is written; seq [token]: which completion it belongs
    to, in order. arXiv:1506.02438, eq. 11, 12 and 16. Counted token by token in float64.
    """
    found = [0.0] * len(seq)
    advantage, value, owner = 0.0, 0.0, -1
    tokens = list(zip(rewards.tolist(), values.tolist(), seq.tolist(), strict=True))
    for at in range(len(tokens) - 1, -1, -1):
        reward, expected, mine = tokens[at]
        if mine != owner:
            advantage, value, owner = 0.0, 0.0, mine
        advantage = reward + discount * value - expected + discount * trace * advantage
        value = expected
        found[at] = advantage
    return torch.tensor(found, dtype=rewards.dtype)

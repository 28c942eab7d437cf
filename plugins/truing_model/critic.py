"""A value function that is a model of its own, beside the policy and learning in the same steps."""

from __future__ import annotations

from typing import Any

from torch import nn

from truing.errors import Problem, UserError
from truing.fields import VALUES, Batch
from truing_model.causal import CausalLm
from truing_model.forward import Network
from truing_model.rewards import RewardModel


class Critic(RewardModel):
    """A reward model whose number is read before every token instead of at the end: VALUES [token]."""

    gives = VALUES


class ActorCritic(nn.Module):
    """Two networks behind one door: what both give of a piece. model, base, heads: of the policy."""

    def __init__(self, policy: Network, critic: Network) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic

    @property
    def model(self) -> nn.Module:
        """The policy, adapters and all."""
        return self.policy.model

    @property
    def base(self) -> Any:
        """The policy's model of transformers itself."""
        return self.policy.base

    @property
    def heads(self) -> nn.ModuleDict:
        """The policy's heads beside the vocabulary."""
        return self.policy.heads

    def forward(self, batch: Batch) -> Batch:
        """What the policy gives, and the values."""
        return self.policy(batch).put_all(self.critic(batch))


def fitting(critic: Critic, policy: CausalLm) -> Critic:
    """The critic. Raises UserError if it reads other tokens than the policy writes, or cannot be where it is."""
    if critic.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        what = f"its vocabulary is not that of {policy.spec.path}"
        raise UserError(Problem(critic.spec.path, what, "name a reward model that was made from the policy's model"))
    if policy.spec.parallel and critic.device.type != policy.device.type:
        what = f"it is on {critic.device.type}, and the policy on {policy.device.type}"
        mend = "in several processes, set the same `device` for both"
        raise UserError(Problem(critic.spec.path, what, mend))
    return critic

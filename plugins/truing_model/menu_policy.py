"""The menu entry of a policy: a language model with what online RL asks of it besides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import LOGPROBS_OLD, LOGPROBS_PROXIMAL, LOGPROBS_REF, VALUES, VALUES_OLD, Fields, fields
from truing.stage import AdvantageSpec, Fault, ModelSpec
from truing_model.plugin import ENCODED, CausalLm, RewardModel

_INSIDE = "to an estimator inside of it, as [model.advantage],"


class Policy(CausalLm, frozen=True, kw_only=True):
    """A causal language model that learns from what it writes itself: with an advantage estimator that looks at values
    or at the reference, and with several passes over a batch.

    An estimator as [advantage] sees a batch before the model does. One as [model.advantage] sees it when the model is
    about to learn from it, with all that the model says of it: values before each token (`value_head`), and
    log-probabilities under the reference. It is handed the whole batch, so what it compares is compared across pieces.
    """

    name: ClassVar[str] = "policy"
    target: ClassVar[str] = "truing_model.policy:Policy"
    offers: ClassVar = {
        VALUES: "with value_head = true, or a critic,",
        VALUES_OLD: f"with value_head = true, or a critic, {_INSIDE}",
        LOGPROBS_REF: _INSIDE,
    }

    advantage: Annotated[
        AdvantageSpec | None, Meta(description="the estimator that needs what the model says of a batch")
    ] = None
    critic: Annotated[
        ModelSpec | None,
        Meta(
            description='a value function of its own instead of a value head: a "reward-model", whose rewards are what '
            "its values begin with. It learns with the same optimizer, and is exported as `critic/` beside the policy"
        ),
    ] = None
    passes: Annotated[
        int, Meta(ge=1, description="how many times a batch is learned from before the next one: the epochs of PPO")
    ] = 1
    minibatches: Annotated[
        int,
        Meta(ge=1, description="into how many parts, each an optimizer step, a pass divides the prompts of a batch"),
    ] = 1

    def requires(self) -> Fields:
        """What a language model needs, and what its estimator does that it does not say itself."""
        needs = CausalLm.requires(self)
        return needs | (self.advantage.requires() - self._says()) if self.advantage else needs

    def provides(self) -> Fields:
        """What a language model does, and advantages."""
        values = fields(VALUES, VALUES_OLD) if self.critic else fields()
        return CausalLm.provides(self) | values | (self.advantage.provides() if self.advantage else fields())

    def problems(self) -> Iterable[Fault]:
        """Values that nobody learns to tell, or two do."""
        yield from CausalLm.problems(self)
        if self.advantage and VALUES_OLD in self.advantage.requires() and not (self.value_head or self.critic):
            what = f'"{self.advantage.name}" needs values, and the model has no value head'
            yield Fault("advantage", what, "set value_head = true, or give it a critic")
        if self.critic and self.value_head:
            yield Fault("critic", "the value head tells values, too", "take one of them out")
        if self.critic and self.critic.name != RewardModel.name:
            what = f'"{self.critic.name}" gives no number of its own'
            yield Fault("critic", what, f'use = "{RewardModel.name}"')

    def _says(self) -> Fields:
        return ENCODED | fields(LOGPROBS_REF, LOGPROBS_OLD, LOGPROBS_PROXIMAL, VALUES_OLD)

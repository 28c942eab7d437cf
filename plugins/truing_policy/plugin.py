"""The menu of the policy's losses, of advantages for them, and of rewards."""

from __future__ import annotations

from typing import ClassVar

from truing.fields import CHOSEN, LABEL, LOGPROBS, MISMATCHED, RANK, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec
from truing_policy.menu_advantages import (
    BestOfGroup,
    DynamicSampling,
    Gae,
    GroupRelative,
    LeaveOneOut,
    MonteCarlo,
    Process,
    Remax,
    Whitened,
)
from truing_policy.menu_controllers import AdaptiveKl, KlBudget
from truing_policy.menu_losses import Cispo, Dapo, DrGrpo, Grpo, Gspo, Ppo, Reinforce
from truing_policy.menu_rewards import Overlong


class Sft(LossSpec, frozen=True, kw_only=True):
    """Supervised fine-tuning: the negative log-likelihood of demonstrations, a mean over completion tokens.

    InstructGPT's first stage (arXiv:2203.02155, section 3.5). Prompt tokens are read, never learned.
    """

    name: ClassVar[str] = "sft"
    target: ClassVar[str] = "truing_policy.losses:sft"
    by_completion: ClassVar[bool] = True
    refuses = {
        CHOSEN: 'sft would learn the rejected answers too; map completion = "chosen" instead of chosen and rejected',
        LABEL: "sft would learn the undesirable answers too; keep the desirable rows with `where`, without `label`",
        RANK: "sft would learn the worst answers too; map the best one with `completion`",
        MISMATCHED: "sft would learn answers to other prompts; leave `mismatched` out",
    }

    def requires(self) -> Fields:
        return fields(LOGPROBS)


_LOSSES = [Sft, Ppo, Grpo, DrGrpo, Dapo, Gspo, Cispo, Reinforce]
_ADVANTAGES = [Gae, MonteCarlo, GroupRelative, LeaveOneOut, Remax, Whitened, Process, BestOfGroup, DynamicSampling]


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Losses, advantages for them, controllers of their KL coefficient, and a scorer of length."""
    return [*_LOSSES, *_ADVANTAGES, AdaptiveKl, KlBudget, Overlong]

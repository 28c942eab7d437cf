"""The menu of reward losses, and of scorers that know the answer."""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_reward.menu_ensembles import ENSEMBLES
from truing_reward.menu_judge import JUDGES
from truing_reward.menu_losses import LOSSES
from truing_reward.menu_mix import Mix
from truing_reward.menu_rollouts import StepRollouts
from truing_reward.menu_steps import ProcessBce, ProcessCe
from truing_reward.menu_verifiers import VERIFIERS


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Reward losses and scorers."""
    return [*LOSSES, *ENSEMBLES, *VERIFIERS, *JUDGES, Mix, ProcessBce, ProcessCe, StepRollouts]

"""The menu of what learns from judged steps."""

from __future__ import annotations

from typing import ClassVar

from truing.fields import GROUP, STEP_LABELS, STEP_LOGITS, STEP_SCORES, STEP_SEQ, Fields, fields
from truing.stage import LossSpec


class ProcessBce(LossSpec, frozen=True, kw_only=True):
    """Cross-entropy of the steps of solutions: is each right (arXiv:2211.14275, arXiv:2305.20050, arXiv:2312.08935).

    Labels may be soft, the share of rollouts that came out right, for example. Steps that nobody judged are not there.
    Reported: the share of steps that are judged as their labels do, all of them and those of either kind, and the share
    of solutions whose first wrong step is found: of those that have one, of those that have none, and of all.
    """

    name: ClassVar[str] = "process-bce"
    target: ClassVar[str] = "truing_reward.steps:process_bce"
    by_completion: ClassVar[bool] = True

    def requires(self) -> Fields:
        return fields(STEP_SCORES, STEP_LABELS, STEP_SEQ, GROUP)


class ProcessCe(LossSpec, frozen=True, kw_only=True):
    """Cross-entropy of the steps of solutions in three classes: wrong, neutral, right (arXiv:2305.20050).

    Labels are 0, 0.5 and 1, which is what a `step-file` with scale = "human" and neutral = "half" has. Reported is what
    `process-bce` reports, of a step being right or neutral, and the share of steps whose likeliest class is their own.
    """

    name: ClassVar[str] = "process-ce"
    target: ClassVar[str] = "truing_reward.steps:process_ce"
    by_completion: ClassVar[bool] = True

    def requires(self) -> Fields:
        return fields(STEP_LOGITS, STEP_LABELS, STEP_SEQ, GROUP)

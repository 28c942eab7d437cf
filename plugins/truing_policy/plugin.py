"""The menu of policy losses."""

from __future__ import annotations

from typing import ClassVar

from truing.fields import CHOSEN, LOGPROBS, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, LossSpec


class Sft(LossSpec, frozen=True, kw_only=True):
    """Supervised fine-tuning: the negative log-likelihood of demonstrations, a mean over completion tokens.

    InstructGPT's first stage (arXiv:2203.02155, section 3.5). Prompt tokens are read, never learned.
    """

    name: ClassVar[str] = "sft"
    target: ClassVar[str] = "truing_policy.losses:sft"
    by_completion: ClassVar[bool] = True
    refuses = {
        CHOSEN: 'sft would learn the rejected answers too; map completion = "chosen" instead of chosen and rejected'
    }

    def requires(self) -> Fields:
        return fields(LOGPROBS)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Policy losses."""
    return [Sft]

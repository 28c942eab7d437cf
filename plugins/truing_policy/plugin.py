"""The menu of policy losses."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    ADVANTAGES,
    CHOSEN,
    GROUP,
    LABEL,
    LOGPROBS,
    LOGPROBS_OLD,
    LOGPROBS_REF,
    LOGPROBS_SAMPLED,
    MISMATCHED,
    RANK,
    SCORES,
    SEQ,
    Fields,
    fields,
)
from truing.plugins import hookimpl
from truing.stage import AdvantageSpec, AnySpec, LossSpec


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


class Grpo(LossSpec, frozen=True, kw_only=True):
    """Clipped policy gradient on advantages of tokens (arXiv:2402.03300, eq. 3), with a KL term to the reference.

    The defaults are those of GRPO but for the KL term, which is off as in most later work; `mean = "token"` and
    `clip_high = 0.28` are those of DAPO (arXiv:2503.14476). `anchor` says whose log-probabilities the ratio is to: the
    model's that wrote the completion, or the sampling distribution's, which differ where sampling cut or sharpened it.
    """

    name: ClassVar[str] = "grpo"
    target: ClassVar[str] = "truing_policy.losses:grpo"
    by_completion: ClassVar[bool] = True

    clip: Annotated[float, Meta(gt=0, lt=1, description="how far the ratio may fall below 1, and rise above it")] = 0.2
    clip_high: Annotated[
        float | None, Meta(description="how far the ratio may rise above 1, if that is another number")
    ] = None
    kl: Annotated[float, Meta(ge=0, description="weight of the KL term to the reference; 0: no reference is held")] = (
        0.0
    )
    mean: Annotated[
        Literal["sequence", "token"],
        Meta(description="sequence: tokens within a completion, then completions; token: all tokens of the step alike"),
    ] = "sequence"
    anchor: Annotated[
        Literal["model", "sampling"],
        Meta(description="the ratio is to logprobs_old (model) or to logprobs_sampled (sampling)"),
    ] = "model"

    def requires(self) -> Fields:
        anchor = LOGPROBS_OLD if self.anchor == "model" else LOGPROBS_SAMPLED
        needs = fields(LOGPROBS, ADVANTAGES, SEQ, anchor)
        return needs | fields(LOGPROBS_REF) if self.kl else needs


class GroupRelative(AdvantageSpec, frozen=True, kw_only=True):
    """A rollout's score against the mean of its group, the same for each of its tokens (arXiv:2402.03300, 4.1.2).

    Without `scale` it is that of Dr. GRPO (arXiv:2503.20783): a group's standard deviation no longer favours prompts
    whose rollouts are nearly all alike.
    """

    name: ClassVar[str] = "group-relative"
    target: ClassVar[str] = "truing_policy.advantages:GroupRelative"
    offers: ClassVar = {ADVANTAGES: "behind a [scorer]"}

    scale: Annotated[bool, Meta(description="divide by the standard deviation of the group's scores")] = True

    def requires(self) -> Fields:
        return fields(SCORES, GROUP, SEQ)

    def provides(self) -> Fields:
        return fields(ADVANTAGES)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Policy losses, and advantages for them."""
    return [Sft, Grpo, GroupRelative]

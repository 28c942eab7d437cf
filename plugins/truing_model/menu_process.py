"""The menu of process reward models: the one that learns, and the one that scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.fields import (
    COMPLETIONS,
    GROUP,
    HEARD,
    IDS,
    PROMPTS,
    SCORES,
    STEP_END,
    STEP_INDEX,
    STEP_LOGITS,
    STEP_SCORES,
    STEP_SEQ,
    STEPS,
    Fields,
    fields,
)
from truing.stage import Fault
from truing_model import paths
from truing_model.menu_place import ModelScorer
from truing_model.plugin import ENCODED, RewardModel


class ProcessRewardModel(RewardModel, frozen=True, kw_only=True):
    """A language model that says of every step of a solution whether it is right: the log-odds, read behind the step.

    A separator stands behind every step, put in as tokens and counted, so there is a score for each step. What comes
    later does not change it. The exported folder loads with transformers as a sequence classifier of one label, and
    its configuration keeps the separator. Process supervision of arXiv:2305.20050 and arXiv:2211.14275.

    With three classes it tells steps that are neutral from right ones, as people did who judged them: then it has a
    logit for each class, and learns with the loss `process-ce`.
    """

    name: ClassVar[str] = "process-reward-model"
    target: ClassVar[str] = "truing_model.process:ProcessRewardModel"
    offers: ClassVar = {
        STEP_SCORES: "as the model that learns",
        STEP_LOGITS: "as the model that learns, with classes = 3",
    }

    separator: Annotated[
        str | None,
        Meta(
            description="what stands behind every step; when not given, that of a process reward model in `path`, "
            "else a line break",
        ),
    ] = None
    classes: Annotated[
        Literal[2, 3], Meta(description="2: a step is wrong or right; 3: it is wrong, neutral or right")
    ] = 2

    @property
    def members(self) -> int:
        """How many numbers it has as its output: one log-odds, or a logit for each of three classes."""
        return 1 if self.classes == 2 else 3

    def requires(self) -> Fields:
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP, STEPS, STEP_SEQ, STEP_INDEX)

    def provides(self) -> Fields:
        return ENCODED | fields(STEP_END, STEP_SCORES if self.classes == 2 else STEP_LOGITS)

    def leaves(self, held_out: bool) -> Fields:
        return fields()

    def problems(self) -> Iterable[Fault]:
        yield from RewardModel.problems(self)
        if self.separator == "":
            yield Fault("separator", "nothing separates the steps, so none could be told from the next", "name it")


class ProcessScorer(ModelScorer, frozen=True, kw_only=True):
    """What a process reward model says of the steps of each completion, and of the completion as a whole.

    A step ends with the token that completes the model's separator in the text; a last one without separator gets it
    put in for the model alone. Blank steps are none.
    """

    name: ClassVar[str] = "process-reward-model"
    target: ClassVar[str] = "truing_model.process:ProcessScorer"
    offers: ClassVar = {
        SCORES: "and a process reward model in `path`",
        STEP_SCORES: "and a process reward model in `path`",
    }
    refuses: ClassVar = {HEARD: "it judges completions of one turn: take [generator.environment] out"}

    path: Annotated[
        str,
        Meta(
            description="the folder of a process reward model, or @PHASE for the one an earlier phase made",
            extra=PHASE_MODEL,
        ),
    ]
    aggregate: Annotated[
        Literal["min", "product", "last", "mean", "log-odds"],
        Meta(
            description="the score of a completion, from its steps' probabilities: the least (arXiv:2312.08935), their "
            "product, that all are right (arXiv:2305.20050), the last, or their mean; log-odds: the sum of theirs. A "
            "product falls with every step, so it favours short completions"
        ),
    ] = "min"
    neutral: Annotated[
        Literal["right", "wrong"],
        Meta(
            description="of a model with three classes: the probability of a step is that it is right or neutral, or "
            "that it is right and no less"
        ),
    ] = "right"
    empty: Annotated[float, Meta(description="the score of a completion without steps")] = 0.0
    tokens: Annotated[
        Literal["sampled", "anew"],
        Meta(
            description="sampled: the tokens as they were sampled, which needs the policy's vocabulary; anew: prompt "
            "and steps are encoded as the model learned them, from the text, or from the steps that are there already, "
            "whose labels stay beside the scores"
        ),
    ] = "sampled"
    max_tokens: Annotated[
        int, Meta(ge=2, description="anew: longest prompt plus completion; whole steps behind it have no score")
    ] = 4096

    def requires(self) -> Fields:
        return fields(IDS, GROUP) | (ENCODED if self.tokens == "sampled" else fields(PROMPTS, COMPLETIONS))

    def provides(self) -> Fields:
        ends = fields(STEP_END) if self.tokens == "sampled" else fields()
        return fields(SCORES, STEP_SEQ, STEP_INDEX, STEP_SCORES) | ends

    def problems(self) -> Iterable[Fault]:
        yield from paths.problems(self.path)

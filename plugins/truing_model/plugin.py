"""The menu of models and optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.check import PHASE_MODEL, PHASE_WEIGHTS
from truing.fields import (
    COLLISION_ENTROPY,
    COMPLETIONS,
    ENTROPY,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_OLD,
    LOGPROBS_PROXIMAL,
    LOGPROBS_REF,
    MEMBER_SCORES,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCALE,
    SCORES,
    SEQ,
    TOKENS,
    VALUES,
    VALUES_OLD,
    Fields,
    fields,
)
from truing.plugins import hookimpl
from truing.stage import AnySpec, Fault, ModelSpec, OptimizerSpec
from truing_model import paths
from truing_model.menu_parallel import Parallel
from truing_model.menu_place import Arithmetic, Device, ModelScorer, Offload

ENCODED = fields(PROMPT_TOKENS, PROMPT_GROUP, TOKENS, SEQ)
"""What every model adds to text."""
_VALUED = "with value_head = true"
_BESIDE = "that learned beside a [holdout] of comparisons"


class LanguageModelSpec(ModelSpec, frozen=True, kw_only=True):
    """The options of every causal language model, wherever its weights come from."""

    dtype: Arithmetic = "auto"
    device: Device = "auto"
    offload: Offload = False
    max_tokens: Annotated[int, Meta(ge=2, description="longest prompt plus completion, in tokens")] = 1024
    overlong: Annotated[
        Literal["drop", "truncate"],
        Meta(description="what becomes of a longer one: drop its group, or cut its completion; counted either way"),
    ] = "drop"
    micro_tokens: Annotated[
        int, Meta(ge=0, description="most tokens in one forward pass; 0: 1024 on a CPU, 8192 on a GPU")
    ] = 0
    layout: Annotated[
        Literal["auto", "shared", "plain"],
        Meta(
            description="shared: prompts computed once, rows packed; plain: one completion at a time; "
            "auto: shared if the model gives the same numbers that way"
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[bool, Meta(description="less memory for a third more time")] = False
    activation_offload: Annotated[
        bool, Meta(description="what layers keep of a GPU waits in the machine's memory until gradients need it")
    ] = False
    lora_rank: Annotated[int, Meta(ge=0, description="rank of the LoRA matrices; 0: train all weights")] = 0
    lora_alpha: Annotated[float, Meta(gt=0, description="LoRA scale: the update is multiplied by alpha / rank")] = 32.0
    lora_dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout before the LoRA matrices")] = 0.0
    lora_targets: Annotated[
        list[str], Meta(description="names of the modules that get LoRA; empty: every linear layer but the head")
    ] = []
    lora_layers: Annotated[
        int,
        Meta(
            ge=0,
            description="how many of the last layers get LoRA; no gradient goes through those below, which saves time "
            "and memory; 0: all layers",
        ),
    ] = 0

    parallel: Annotated[
        Parallel | None, Meta(description="the processes that it learns in; none: this one, [model.parallel] otherwise")
    ] = None

    value_head: Annotated[
        bool, Meta(description="also say, at every token, what reward is to be expected; on the same trunk")
    ] = False

    planner: ClassVar[str] = "truing_model.planning:plan"
    follower: ClassVar[str] = "truing_model.following"
    offers: ClassVar = {VALUES: _VALUED, VALUES_OLD: _VALUED}

    @property
    def processes(self) -> int:
        return self.parallel.processes if self.parallel else 1

    def requires(self) -> Fields:
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)

    def encodes(self) -> Fields:
        return fields(PROMPT_TOKENS, PROMPT_GROUP)

    def provides(self) -> Fields:
        policy = fields(LOGPROBS, LOGPROBS_REF, LOGPROBS_OLD, LOGPROBS_PROXIMAL, ENTROPY, COLLISION_ENTROPY)
        return ENCODED | policy | (fields(VALUES, VALUES_OLD) if self.value_head else fields())

    def problems(self) -> Iterable[Fault]:
        if self.offload and self.parallel:
            yield Fault("offload", "weights that several processes hold stay where they are", "take one of them out")
        if self.activation_offload and self.device == "cpu":
            what = "on a CPU, activations are in the machine's memory already"
            yield Fault("activation_offload", what, "take it out; gradient_checkpointing = true keeps less")
        if not self.lora_rank:
            for option in ("lora_dropout", "lora_targets", "lora_layers"):
                if getattr(self, option):
                    yield Fault(
                        option, f"{option} is set but lora_rank is 0, so there is no LoRA", "set lora_rank = 16"
                    )


class PretrainedSpec(LanguageModelSpec, frozen=True, kw_only=True):
    """The options of a model that is loaded."""

    path: Annotated[
        str,
        Meta(
            description="a folder, a hub id, a .gguf file, pkg:PACKAGE/FILE inside an installed package, or @PHASE for "
            "the model an earlier phase made",
            extra=PHASE_MODEL,
        ),
    ]
    revision: Annotated[str, Meta(description='branch, tag or commit of a hub id; "" is its default branch')] = ""
    trust_remote_code: Annotated[
        bool, Meta(description="run code that comes with the model: only if you have read it")
    ] = False
    reference: Annotated[
        str,
        Meta(
            description='the model that logprobs_ref come from, named as `path` is; "": this model as it was loaded',
            extra=PHASE_MODEL,
        ),
    ] = ""

    reference_dtype: Annotated[
        Literal["auto", "fp32", "bf16"],
        Meta(
            description="of a reference that is a copy of its own: how its weights are held, and its arithmetic; auto: "
            "fp32, and as the model computes"
        ),
    ] = "auto"
    reference_device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(description="of a reference that is a copy of its own: where it runs; auto: where the model does"),
    ] = "auto"
    reference_offload: Annotated[
        bool, Meta(description="of a reference that is a copy of its own: `offload` of its weights")
    ] = False

    def problems(self) -> Iterable[Fault]:
        yield from LanguageModelSpec.problems(self)
        yield from paths.problems(self.path)
        for option, usual in (("reference_dtype", "auto"), ("reference_device", "auto"), ("reference_offload", False)):
            if getattr(self, option) != usual and self.lora_rank and not self.reference:
                yield Fault(option, "the reference is the model without its adapter, and no copy", "take it out")
        if self.reference:
            yield from (fault._replace(option="reference") for fault in paths.problems(self.reference))


class CausalLm(PretrainedSpec, frozen=True, kw_only=True):
    """A causal language model, learning with all its weights or through LoRA (arXiv:2106.09685).

    A group's prompt is computed once and all its completions attend to it, several groups in one row, where the
    architecture allows it; only positions that predict a completion token reach the vocabulary. The reference
    is the model as it was loaded: with LoRA the adapter is switched off, else a second, frozen copy answers. What it
    says of a group is computed once and kept in the cache folder.
    """

    name: ClassVar[str] = "causal-lm"
    target: ClassVar[str] = "truing_model.causal:CausalLm"


class RewardModel(PretrainedSpec, frozen=True, kw_only=True):
    """A language model with one number as its output, read off the last token of a completion: its reward.

    The trunk is that of `path`; the head that makes the number is new, or that of an earlier reward model. Which token
    is the last follows from lengths, never from a padding token. The exported folder loads with transformers as a
    sequence classifier of one label. InstructGPT's second stage (arXiv:2203.02155, section 3.5).
    """

    name: ClassVar[str] = "reward-model"
    target: ClassVar[str] = "truing_model.rewards:RewardModel"
    offers: ClassVar = {SCORES: "as the model that learns", SCALE: _BESIDE}

    @property
    def members(self) -> int:
        """How many numbers it has as its output."""
        return 1

    def provides(self) -> Fields:
        return ENCODED | fields(SCORES)

    def leaves(self, held_out: bool) -> Fields:
        return fields(SCALE) if held_out else fields()

    def problems(self) -> Iterable[Fault]:
        yield from PretrainedSpec.problems(self)
        if self.value_head:
            yield Fault("value_head", "a reward model has one head, the reward's", "take it out")


class RewardEnsemble(RewardModel, frozen=True, kw_only=True):
    """Several reward models on one trunk: a head for each member, all of them in one forward pass.

    With the loss `bradley-terry-ensemble` every head learns from a bootstrap sample of its own, as in arXiv:1602.04621.
    Heads that share a trunk share most of their mistakes; members that are models of their own differ more, and cost as
    many forward passes.
    """

    name: ClassVar[str] = "reward-ensemble"
    target: ClassVar[str] = "truing_model.rewards:RewardEnsemble"
    offers: ClassVar = {MEMBER_SCORES: "as the model that learns", SCALE: _BESIDE}

    heads: Annotated[int, Meta(ge=2, description="how many members")] = 5

    @property
    def members(self) -> int:
        return self.heads

    def provides(self) -> Fields:
        return ENCODED | fields(MEMBER_SCORES)


class RewardScorer(ModelScorer, frozen=True, kw_only=True):
    """The reward that a reward model gives each completion, read off its last token.

    Completions are scored token by token as they were sampled, so the model must have the policy's vocabulary. Of a
    model with several heads it is their mean; the scorer `ensemble` around it makes more of them.
    """

    name: ClassVar[str] = "reward-model"
    target: ClassVar[str] = "truing_model.rewards:RewardScorer"
    offers: ClassVar = {SCORES: "and a reward model in `path`"}

    path: Annotated[
        str | list[str],
        Meta(
            description="a folder or hub id of a reward model, or @PHASE for the one an earlier phase made; a list: "
            "the average of their weights, WARM (arXiv:2401.12187), for models that began as one",
            extra=PHASE_MODEL,
        ),
    ]
    trunk: Annotated[
        str,
        Meta(
            description="the model that its adapter was learned on, `@sft` for example: it is read through that, "
            "and what a policy or a critic that began as the same model holds frozen is held once; "
            '"": as a whole, with weights of its own',
            extra=PHASE_WEIGHTS,
        ),
    ] = ""
    scale: Annotated[
        Literal["raw", "normalised", "calibrated"],
        Meta(
            description='"normalised": minus the mean and over the standard deviation of what the model said of the '
            'holdout it was trained beside. "calibrated": over the temperature fitted there, so that the sigmoid of a '
            'difference is the probability that the one is better. "raw": as it is'
        ),
    ] = "raw"

    def requires(self) -> Fields:
        return ENCODED | fields(IDS, GROUP)

    def provides(self) -> Fields:
        return fields(SCORES)

    def reads(self) -> Fields:
        return fields() if self.scale == "raw" else fields(SCALE)

    def unit(self) -> str:
        return {"raw": "", "normalised": "standard deviations", "calibrated": "log-odds"}[self.scale]

    def problems(self) -> Iterable[Fault]:
        named = [self.path] if isinstance(self.path, str) else self.path
        for path in named:
            yield from paths.problems(path)
        if not named:
            yield Fault("path", "no reward model is named")
        if self.trunk:
            yield from (fault._replace(option="trunk") for fault in paths.problems(self.trunk))
        if self.offload and self.trunk:
            yield Fault("offload", "what is held as one with the policy stays where that is", "take one of them out")
        if len(named) > 1 and self.trunk:
            yield Fault("trunk", "an average of weights is of whole models", "take it out")
        if len(named) > 1 and self.scale != "raw":
            what = "an average of weights is a new model, and its scores were never measured"
            yield Fault("scale", what, "take it out, or make an `ensemble` of the models")


class ScratchLm(LanguageModelSpec, frozen=True, kw_only=True):
    """A small Llama with fresh random weights that reads and writes bytes: for trying a recipe out in seconds, and for
    experiments in which everything a model knows is what it was taught.

    Each of the 256 bytes is a token, and so are the marks of a chat.
    """

    name: ClassVar[str] = "scratch-lm"
    target: ClassVar[str] = "truing_model.scratch:scratch_lm"

    width: Annotated[int, Meta(ge=8, description="size of the hidden state; a multiple of 2 * heads")] = 64
    layers: Annotated[int, Meta(ge=1, description="number of transformer layers")] = 2
    heads: Annotated[int, Meta(ge=1, description="attention heads per layer")] = 4
    deviation: Annotated[
        float,
        Meta(
            gt=0,
            description="standard deviation of the fresh weights; 0.02 is what large models take, and a small one "
            "finds out much sooner what to attend to with about 1 / sqrt(width)",
        ),
    ] = 0.02

    def problems(self) -> Iterable[Fault]:
        yield from LanguageModelSpec.problems(self)
        if self.width % (2 * self.heads):
            yield Fault("width", f"width {self.width} is no multiple of 2 * heads", f"try width = {16 * self.heads}")


class AdamW(OptimizerSpec, frozen=True, kw_only=True):
    """AdamW (arXiv:1711.05101) with a warm-up, a schedule and a limit on the norm of a step's gradient.

    Weight decay is for matrices alone, not for norms and biases.
    """

    name: ClassVar[str] = "adamw"
    target: ClassVar[str] = "truing_model.optimizer:AdamW"

    lr: Annotated[
        float, Meta(ge=0, description="highest learning rate; with LoRA ten times what full training takes")
    ] = 1e-5
    weight_decay: Annotated[float, Meta(ge=0, description="decay of matrices per unit of learning rate")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean of gradients")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean of squared gradients")] = 0.999
    epsilon: Annotated[float, Meta(gt=0, description="added to the root of the squared gradients' mean")] = 1e-8
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], Meta(description="how the learning rate falls after the warm-up")
    ] = "cosine"
    warmup: Annotated[float, Meta(ge=0, le=1, description="share of the steps in which the learning rate rises")] = 0.05
    clip: Annotated[float, Meta(ge=0, description="largest norm of a step's gradient; 0: no limit")] = 1.0
    bits: Annotated[
        Literal[8, 32],
        Meta(
            description="of each number it keeps of a weight; 8: in blocks with a scale each (arXiv:2110.02861), a "
            "quarter of the memory, with what `pip install 'truing[eight-bit]'` brings"
        ),
    ] = 32

    def problems(self) -> Iterable[Fault]:
        if self.bits == 8 and find_spec("torchao") is None:
            yield Fault("bits", "torchao is not installed", "pip install 'truing[eight-bit]'")


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Models and optimizers."""
    # Here, because they are made from the specs above.
    from truing_model.menu_divergence import Divergence
    from truing_model.menu_likelihood import Likelihood
    from truing_model.menu_plural import PLURAL
    from truing_model.menu_policy import Policy
    from truing_model.menu_process import ProcessRewardModel, ProcessScorer
    from truing_model.menu_student import Student

    return [
        *PLURAL,
        Policy,
        Student,
        ProcessRewardModel,
        ProcessScorer,
        CausalLm,
        RewardModel,
        RewardEnsemble,
        RewardScorer,
        ScratchLm,
        AdamW,
        Divergence,
        Likelihood,
    ]

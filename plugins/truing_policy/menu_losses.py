"""The menu of losses on what the policy itself wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    ADVANTAGES,
    ENTROPY,
    LOGPROBS,
    LOGPROBS_OLD,
    LOGPROBS_PROXIMAL,
    LOGPROBS_REF,
    LOGPROBS_SAMPLED,
    RETURNS,
    SEQ,
    VALUES,
    VALUES_OLD,
    Field,
    Fields,
    fields,
)
from truing.stage import Fault, LossSpec
from truing_policy.menu_advantages import heeded

Anchor = Literal["model", "sampling", "proximal"]
ANCHORS: dict[Anchor, Field[Any]] = {
    "model": LOGPROBS_OLD,
    "sampling": LOGPROBS_SAMPLED,
    "proximal": LOGPROBS_PROXIMAL,
}
Mean = Annotated[
    Literal["sequence", "token", "constant"],
    Meta(
        description="what the loss is a mean over. sequence: tokens within a completion, then completions; token: all "
        "tokens of the step alike; constant: the sum of a completion's tokens over `length`, then completions"
    ),
]
Length = Annotated[
    int | None,
    Meta(
        description='with mean = "constant", what the sum of a completion\'s tokens is divided by, however long it is; '
        "when not given, by nothing"
    ),
]
Clip = Annotated[float, Meta(gt=0, lt=1, description="how far the ratio may fall below 1, and rise above it")]
ClipHigh = Annotated[
    float | None, Meta(description="how far the ratio may rise above 1, if that is another number than `clip`")
]


class PolicyLoss(LossSpec, frozen=True, kw_only=True):
    """What all losses share that make a completion likelier or less likely by its advantage.

    Reported: how many tokens were clipped, the ratio, the KL divergence to the anchor and to the reference, the
    entropy, and with a correction how far sampler and learner are apart.
    """

    by_completion: ClassVar[bool] = True

    mean: Mean = "sequence"
    length: Length = None
    kl: Annotated[
        Annotated[float, Meta(ge=0)] | Literal["controlled"],
        Meta(
            description='weight of the KL term to the reference; 0: no reference is held; "controlled": what a '
            "[controller] says"
        ),
    ] = 0.0
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3", "weighted-k3"],
        Meta(
            description="of the KL term, token by token. k2: its gradient is that of KL(policy || reference); k3: that "
            "of KL(reference || policy), the same near the reference; weighted-k3: k3 times the ratio, whose gradient "
            "is that of KL(policy || reference) however old the completion is. k1 is for rewards, as a loss it does "
            "nothing"
        ),
    ] = "k3"
    entropy: Annotated[float, Meta(ge=0, description="weight of the entropy, which is maximised; 0: reported only")] = (
        0.0
    )
    anchor: Annotated[
        Anchor,
        Meta(
            description="the ratio is to logprobs_old (model), to logprobs_sampled (sampling), or to the model as it "
            "is when learning from the batch begins (proximal), which costs one more pass without gradients"
        ),
    ] = "model"
    correct: Annotated[
        Literal["none", "token", "sequence", "geometric"],
        Meta(
            description="weigh tokens by how much likelier they are under the anchor than under the distribution they "
            "were drawn from: each by its own ratio, by the product of its completion's, or by their geometric mean"
        ),
    ] = "none"
    correct_by: Annotated[
        Literal["truncate", "mask"],
        Meta(
            description="what becomes of a weight above `correct_most`: it is set to it (truncated importance "
            "sampling), or to 0, as is one below `correct_least` (masked importance sampling)"
        ),
    ] = "truncate"
    correct_most: Annotated[float, Meta(ge=1, description="the largest weight of a correction")] = 2.0
    correct_least: Annotated[float, Meta(ge=0, le=1, description="the smallest weight that is not masked")] = 0.5

    def requires(self) -> Fields:
        """Log-probabilities under both sides of the ratio, and what the options look at."""
        needs = fields(LOGPROBS, ADVANTAGES, SEQ, ENTROPY, ANCHORS[self.anchor])
        if self.kl:
            needs |= fields(LOGPROBS_REF) | heeded(self.kl)
        return needs if self.correct == "none" else needs | fields(LOGPROBS_SAMPLED)

    def problems(self) -> Iterable[Fault]:
        """A KL term and a correction that would do nothing, and a length of nothing."""
        if self.kl_estimator == "k1":
            what = "as a loss k1 does nothing: the mean of its gradient is 0, whatever the reference"
            mend = 'set kl_estimator = "k2", or put the KL into the reward: `kl` of an [advantage]'
            yield Fault("kl_estimator", what, mend)
        if self.correct != "none" and self.anchor == "sampling":
            what = "the anchor is the sampling distribution itself, so every weight is 1"
            yield Fault("correct", what, 'set anchor = "proximal", or take `correct` out')
        if self.length is not None and self.mean != "constant":
            yield Fault("length", f'with mean = "{self.mean}" nothing is divided by it', 'set mean = "constant"')
        if self.length is not None and self.length < 1:
            yield Fault("length", f"{self.length} is no length", "set it to the longest completion that is sampled")


class Clipped(PolicyLoss, frozen=True, kw_only=True):
    """What losses share that stop where the ratio has moved far enough."""

    clip: Clip = 0.2
    clip_high: ClipHigh = None
    dual_clip: Annotated[
        float | None,
        Meta(description="where an advantage is negative, the ratio counts up to this number (arXiv:1912.09729); 3"),
    ] = None

    def problems(self) -> Iterable[Fault]:
        """A second bound within the first."""
        yield from PolicyLoss.problems(self)
        high = self.clip if self.clip_high is None else self.clip_high
        if high <= 0:
            yield Fault("clip_high", f"{high} leaves the ratio no room above 1", "set it above 0")
        if self.dual_clip is not None and self.dual_clip <= 1 + high:
            what = f"{self.dual_clip} is within the first bound, 1 + {high}"
            yield Fault("dual_clip", what, "set it to 3, as its paper does")


class Grpo(Clipped, frozen=True, kw_only=True):
    """Clipped policy gradient on advantages of tokens (arXiv:2402.03300, eq. 3), with a KL term to the reference.

    The defaults are those of GRPO but for the KL term, which is off as in most later work. `anchor` says whose
    log-probabilities the ratio is to: the model's that wrote the completion, or the sampling distribution's, which
    differ where sampling cut or sharpened it.
    """

    name: ClassVar[str] = "grpo"
    target: ClassVar[str] = "truing_policy.losses:grpo"


class Dapo(Clipped, frozen=True, kw_only=True):
    """GRPO as DAPO has it (arXiv:2503.14476, eq. 8): all tokens of a step are one mean, and the ratio may rise further
    than it may fall, so that rare tokens can become likely.

    Goes with the advantage `dynamic-sampling`, and with the scorer `overlong` in a mix.
    """

    name: ClassVar[str] = "dapo"
    target: ClassVar[str] = "truing_policy.losses:grpo"

    mean: Mean = "token"
    clip_high: ClipHigh = 0.28


class DrGrpo(Clipped, frozen=True, kw_only=True):
    """GRPO without its bias of length (Dr. GRPO, arXiv:2503.20783): a completion's tokens are summed and divided by a
    constant, so a long wrong answer is not forgiven for its length.

    Set `length` to the longest completion that is sampled. Goes with `group-relative` and scale = false.
    """

    name: ClassVar[str] = "dr-grpo"
    target: ClassVar[str] = "truing_policy.losses:grpo"

    mean: Mean = "constant"
    length: Length = 256


class Ppo(Clipped, frozen=True, kw_only=True):
    """Proximal policy optimization (arXiv:1707.06347, eq. 7 and 9): the clipped objective, and the value function that
    learns beside it from the returns, itself kept from moving further than `clip_value` in one batch.

    With `value` = 0 it is the clipped objective alone, and goes with any advantage. Learns most from a batch that is
    gone through several times: `passes` of the model `policy`.
    """

    name: ClassVar[str] = "ppo"
    target: ClassVar[str] = "truing_policy.losses:ppo"

    mean: Mean = "token"
    value: Annotated[float, Meta(ge=0, description="weight of the value function's squared error; 0: it has none")] = (
        0.1
    )
    clip_value: Annotated[
        float,
        Meta(ge=0, description="how far a value may move from what it was when the batch was begun; 0: any distance"),
    ] = 0.2

    def requires(self) -> Fields:
        """What the clipped objective needs, and values with what they should have been."""
        needs = Clipped.requires(self)
        return needs | fields(VALUES, VALUES_OLD, RETURNS) if self.value else needs


class Gspo(PolicyLoss, frozen=True, kw_only=True):
    """Group sequence policy optimization (arXiv:2507.18071, eq. 5): one ratio a completion, the geometric mean of its
    tokens', so a completion is clipped whole or not at all.

    In the form that takes advantages of tokens (GSPO-token, its eq. 13), which is the same where they are all alike.
    """

    name: ClassVar[str] = "gspo"
    target: ClassVar[str] = "truing_policy.losses:gspo"

    clip: Clip = 3e-4
    clip_high: ClipHigh = 4e-4


class Cispo(PolicyLoss, frozen=True, kw_only=True):
    """Clipped weights instead of clipped updates (CISPO, arXiv:2506.13585, eq. 4): every token teaches, weighed by its
    ratio up to a largest one, so rare tokens that turn an argument are never left out.
    """

    name: ClassVar[str] = "cispo"
    target: ClassVar[str] = "truing_policy.losses:cispo"

    mean: Mean = "token"
    most: Annotated[float, Meta(ge=1, description="the largest weight; arXiv:2510.13786 found 4 to 8 alike")] = 5.0
    least: Annotated[float, Meta(ge=0, le=1, description="the smallest weight; 0, as in its paper: no bound")] = 0.0


class Reinforce(PolicyLoss, frozen=True, kw_only=True):
    """The policy gradient itself (Williams, 1992): log-probability times advantage, and nothing clipped.

    Unbiased for completions that the policy writes now: keep `loop.staleness` at 0, or correct. RLOO
    (arXiv:2402.14740) is this behind `leave-one-out` with `kl`.
    """

    name: ClassVar[str] = "reinforce"
    target: ClassVar[str] = "truing_policy.losses:reinforce"

    mean: Mean = "constant"

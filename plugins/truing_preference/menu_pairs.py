"""The menu of losses on pairs: those with a reference, and those without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    CHOSEN,
    COLLISION_ENTROPY,
    LOGPROBS,
    LOGPROBS_REF,
    MARGIN,
    REJECTED,
    SEQ,
    SOFT,
    Fields,
    fields,
)
from truing.stage import Fault, LossSpec

Beta = Annotated[float, Meta(gt=0, description="strength of the KL constraint: small moves further from the reference")]
Scale = Annotated[float, Meta(gt=0, description="what a log-probability is multiplied by to make a reward")]
SftWeight = Annotated[
    float,
    Meta(ge=0, description="weight of the chosen completions' negative log-likelihood per token; 0: no such term"),
]
LabelSmoothing = Annotated[
    float, Meta(ge=0, le=0.5, description="probability that a label is flipped; 0: labels are right")
]
PerToken = Annotated[bool, Meta(description="divide log-ratios by the length of their completion")]
Soft = Annotated[
    bool, Meta(description="learn the `soft` column of the pairs, the probability that the chosen one is better")
]
MarginWeight = Annotated[
    float,
    Meta(ge=0, description="weight of the `margin` column of the pairs, by which rewards should differ; 0: unused"),
]


class PairLoss(LossSpec, frozen=True, kw_only=True):
    """What all losses on pairs share."""

    sft_weight: SftWeight = 0.0

    def requires(self) -> Fields:
        """Pairs, and what the options look at beside them."""
        needs = fields(LOGPROBS, SEQ, CHOSEN, REJECTED)
        if getattr(self, "soft", False):
            needs |= fields(SOFT)
        if getattr(self, "margin_weight", 0.0):
            needs |= fields(MARGIN)
        return needs


class ReferenceLoss(PairLoss, frozen=True, kw_only=True):
    """What all losses on pairs share that hold the policy to a reference."""

    beta: Beta = 0.1

    def requires(self) -> Fields:
        """What pairs need, and the reference."""
        return PairLoss.requires(self) | fields(LOGPROBS_REF)


class Dpo(ReferenceLoss, frozen=True, kw_only=True):
    """Direct preference optimization (arXiv:2305.18290, eq. 7): conservative, robust, length-normalised, with soft
    labels or with margins as options.

    The implicit reward of an answer is beta times its log-ratio to the reference; the loss is the Bradley-Terry
    likelihood of the preferences under it. Reported, here and by all losses on pairs: accuracy and margin of implicit
    rewards, rewards and log-probabilities of both sides, their difference in length, KL to the reference.
    """

    name: ClassVar[str] = "dpo"
    target: ClassVar[str] = "truing_preference.pairs:dpo"

    label_smoothing: LabelSmoothing = 0.0
    robust: Annotated[
        bool, Meta(description="correct for labels flipped with probability `label_smoothing` (arXiv:2403.00409)")
    ] = False
    per_token: PerToken = False
    soft: Soft = False
    margin_weight: MarginWeight = 0.0

    def problems(self) -> Iterable[Fault]:
        """A correction for nothing, and one that divides by 0."""
        if self.robust and not 0 < self.label_smoothing < 0.5:
            what = f"robust corrects for flipped labels, and label_smoothing is {self.label_smoothing}"
            yield Fault("robust", what, "say how many are flipped: label_smoothing above 0 and below 0.5")


class DpoTies(ReferenceLoss, frozen=True, kw_only=True):
    """DPO that knows ties (arXiv:2409.17431): a pair whose `soft` is 0.5 was judged equal.

    Where DPO would push tied answers towards equal rewards as hard as it pushes others apart, a model of ties takes
    them for what they are. Above 0.5 the first answer won, below it the second.
    """

    name: ClassVar[str] = "dpo-ties"
    target: ClassVar[str] = "truing_preference.pairs:dpo_ties"

    model: Annotated[Literal["rao-kupper", "davidson"], Meta(description="how likely ties are between equals")] = (
        "rao-kupper"
    )
    nu: Annotated[
        float | None,
        Meta(
            description="how common ties are; when not given half of all pairs of equals are tied, which is 3 for "
            "rao-kupper and 1 for davidson",
        ),
    ] = None

    def requires(self) -> Fields:
        """Pairs with a verdict."""
        return ReferenceLoss.requires(self) | fields(SOFT)

    def problems(self) -> Iterable[Fault]:
        """A model of ties in which none can occur."""
        least = 1 if self.model == "rao-kupper" else 0
        if self.nu is not None and self.nu <= least:
            yield Fault("nu", f"nu = {self.nu} leaves {self.model} no ties", f"set it above {least}")


class Ipo(ReferenceLoss, frozen=True, kw_only=True):
    """Identity preference optimization (arXiv:2310.12036, eq. 17): the log-ratios of a pair shall differ by 1 / (2
    beta), no more, so a preference that nobody ever contradicts does not drive the other answer's probability to 0.

    The equation has the log-ratio of the whole answer, and so has the default. With `per_token` it is divided by
    length, as the authors have said that their results were made.
    """

    name: ClassVar[str] = "ipo"
    target: ClassVar[str] = "truing_preference.pairs:ipo"

    per_token: PerToken = False
    soft: Soft = False


class HingeNorm(ReferenceLoss, frozen=True, kw_only=True):
    """The normalised hinge loss of RSO (arXiv:2309.06657): a pair whose rewards differ by 1 or more teaches nothing."""

    name: ClassVar[str] = "hinge-norm"
    target: ClassVar[str] = "truing_preference.pairs:hinge_norm"

    margin_weight: MarginWeight = 0.0


class RDpo(ReferenceLoss, frozen=True, kw_only=True):
    """Length-regularised DPO (arXiv:2403.19159): a longer answer has to be better to be worth as much."""

    name: ClassVar[str] = "r-dpo"
    target: ClassVar[str] = "truing_preference.pairs:r_dpo"

    alpha: Annotated[float, Meta(ge=0, description="reward taken for every token; 0: DPO")] = 0.01


class Dpop(ReferenceLoss, frozen=True, kw_only=True):
    """DPO-Positive (arXiv:2402.13228): DPO with a penalty on chosen answers that become less likely than under
    the reference. For pairs that differ in a few tokens, where DPO lowers both.
    """

    name: ClassVar[str] = "dpop"
    target: ClassVar[str] = "truing_preference.pairs:dpop"

    beta: Beta = 0.3
    penalty: Annotated[float, Meta(ge=0, description="weight of the penalty, lambda in the paper; 0: DPO")] = 50.0


class Wpo(ReferenceLoss, frozen=True, kw_only=True):
    """Weighted preference optimization (arXiv:2406.11827, eq. 2): DPO in which pairs weigh by how likely the policy
    would write them itself, for answers that come from other models.

    An answer weighs the geometric mean of its tokens' probabilities, each over the probability that a token drawn there
    could expect (the paper's sampled alignment), so what the policy writes itself weighs about 1.
    """

    name: ClassVar[str] = "wpo"
    target: ClassVar[str] = "truing_preference.pairs:wpo"

    def requires(self) -> Fields:
        """What a reference needs, and how sure the policy is at every token."""
        return ReferenceLoss.requires(self) | fields(COLLISION_ENTROPY)


class Exo(ReferenceLoss, frozen=True, kw_only=True):
    """Efficient exact optimization (arXiv:2402.00856, eq. 16): the KL divergence in the direction of RL, which seeks
    the mode, where DPO's covers the mass.
    """

    name: ClassVar[str] = "exo"
    target: ClassVar[str] = "truing_preference.pairs:exo"

    label_smoothing: Annotated[
        float, Meta(gt=0, le=0.5, description="probability that a label is flipped; 0 would cost infinitely much")
    ] = 1e-3
    soft: Soft = False


class Nca(ReferenceLoss, frozen=True, kw_only=True):
    """Noise contrastive alignment (arXiv:2402.05369) of pairs: rewards are learned one by one and not only in their
    difference, so chosen answers do not lose likelihood together with the rejected.
    """

    name: ClassVar[str] = "nca"
    target: ClassVar[str] = "truing_preference.pairs:nca"

    beta: Beta = 0.01


class Apo(ReferenceLoss, frozen=True, kw_only=True):
    """Anchored preference optimization (arXiv:2408.06266, eq. 7 and 8): says in which direction both answers move.

    zero: the chosen one up and the rejected one down, for answers better than the model's own. down: both down, the
    rejected one more, for a model that is already better than the chosen answers.
    """

    name: ClassVar[str] = "apo"
    target: ClassVar[str] = "truing_preference.pairs:apo"

    variant: Annotated[
        Literal["zero", "down"],
        Meta(description="are the chosen answers better than the model's own (zero) or worse (down)?"),
    ] = "zero"


class FDpo(ReferenceLoss, frozen=True, kw_only=True):
    """DPO under another f-divergence from the reference (arXiv:2309.16240).

    Reverse KL, which is DPO, gives up answers; forward KL keeps them all; js and alpha lie between.
    """

    name: ClassVar[str] = "f-dpo"
    target: ClassVar[str] = "truing_preference.pairs:f_dpo"

    divergence: Annotated[
        Literal["reverse-kl", "forward-kl", "js", "alpha"], Meta(description="how the distance is measured")
    ] = "js"
    alpha: Annotated[
        float, Meta(gt=0, lt=1, description="of the alpha divergence: near 0 it is reverse KL, near 1 forward KL")
    ] = 0.5


class Aot(ReferenceLoss, frozen=True, kw_only=True):
    """Alignment via optimal transport (arXiv:2406.05882): rewards are to be better as a distribution, quantile by
    quantile, not in every pair. Wants a large `loop.batch`: with one pair per step it is DPO.
    """

    name: ClassVar[str] = "aot"
    target: ClassVar[str] = "truing_preference.steps:aot"
    whole_step: ClassVar[bool] = True

    unpaired: Annotated[
        bool, Meta(description="sort chosen and rejected rewards apart, as if they belonged to different prompts")
    ] = False
    label_smoothing: LabelSmoothing = 0.0


class BetaDpo(ReferenceLoss, frozen=True, kw_only=True):
    """DPO with a beta of its own for every pair (arXiv:2407.08639): larger where the margin lies above the mean of the
    step, and pairs far from the mean are left out.

    The paper's moving average over steps is the mean of the step here, and its one beta of a batch is one of each pair,
    so nothing is remembered between steps. Wants a large `loop.batch`.
    """

    name: ClassVar[str] = "beta-dpo"
    target: ClassVar[str] = "truing_preference.steps:beta_dpo"
    whole_step: ClassVar[bool] = True

    alpha: Annotated[float, Meta(ge=0, description="how much beta follows the margin; 0: DPO on the pairs kept")] = 0.6
    keep: Annotated[float, Meta(gt=0, le=1, description="share of the pairs that are kept, nearest to the mean")] = 0.8


class SimPo(PairLoss, frozen=True, kw_only=True):
    """Simple preference optimization (arXiv:2405.14734, eq. 6): the reward is the mean log-probability per token, so no
    reference is needed and length earns nothing. Wants a small learning rate and the largest batch there is memory for.
    """

    name: ClassVar[str] = "simpo"
    target: ClassVar[str] = "truing_preference.reference_free:simpo"

    beta: Scale = 2.0
    gamma: Annotated[float, Meta(ge=0, description="by how much rewards should differ; about half of beta")] = 1.0
    label_smoothing: LabelSmoothing = 0.0
    soft: Soft = False


class Cpo(PairLoss, frozen=True, kw_only=True):
    """Contrastive preference optimization (arXiv:2401.08417, eq. 3): DPO with a uniform reference, kept near good
    answers by their likelihood.
    """

    name: ClassVar[str] = "cpo"
    target: ClassVar[str] = "truing_preference.reference_free:cpo"

    sft_weight: SftWeight = 1.0
    beta: Scale = 0.1
    label_smoothing: LabelSmoothing = 0.0
    soft: Soft = False


class Orpo(PairLoss, frozen=True, kw_only=True):
    """Odds ratio preference optimization (arXiv:2403.07691, eq. 7): supervised fine-tuning on the chosen answers
    and, in the same step, preference by the ratio of odds. No reference and no SFT phase before it.
    """

    name: ClassVar[str] = "orpo"
    target: ClassVar[str] = "truing_preference.reference_free:orpo"

    sft_weight: SftWeight = 1.0
    odds_weight: Annotated[
        float, Meta(gt=0, description="weight of the odds ratio beside the likelihood, lambda in the paper")
    ] = 0.1


class Slic(PairLoss, frozen=True, kw_only=True):
    """Sequence likelihood calibration (SLiC-HF, arXiv:2305.10425): the chosen answer is to be more likely by a margin,
    and likely in itself.
    """

    name: ClassVar[str] = "slic"
    target: ClassVar[str] = "truing_preference.reference_free:slic"

    sft_weight: SftWeight = 1.0
    delta: Annotated[float, Meta(gt=0, description="by how many nats the chosen answer is to be more likely")] = 1.0

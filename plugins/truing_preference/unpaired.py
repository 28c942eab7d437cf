"""Losses on single completions, each labelled desirable or not.

LABEL [seq] is 1 for a desirable completion and 0 for an undesirable one; LOGPROBS and LOGPROBS_REF [token] are in nats;
SEQ [token] says which completion a token belongs to. rho(y) = log pi(y|x) / ref(y|x). A loss is the mean over labelled
completions and must see a whole step, since it compares each with what the others say.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.errors import RunFailed
from truing.fields import LABEL, MISMATCHED, Batch
from truing.stage import LossValue, Term
from truing_preference.sides import Side, completions
from truing_tensor.comparisons import correlation, half_right


def kto(batch: Batch, *, beta: float, desirable_weight: float, undesirable_weight: float) -> LossValue:
    """desirable: w_D (1 - sigmoid(beta (rho - z_0)))    undesirable: w_U (1 - sigmoid(beta (z_0 - rho)))

    KTO, arXiv:2402.01306, eq. 7. z_0 is how far the policy has moved: the mean of rho over completions that were
    written for other prompts (MISMATCHED [seq] is 1; they have no label), at least 0 and without gradient. Raises
    RunFailed for a step without such completions, or with no others.
    """
    whole = completions(batch)
    own = batch[MISMATCHED] == 0
    if not 0 < int(own.sum()) < len(own):
        absent = "for its own prompt" if bool((~own).all()) else "for another prompt, which `mismatched = true` adds"
        raise RunFailed(f"kto: no completion of this step was written {absent}")
    moved = whole.ratio[~own].mean().clamp(min=0).detach()
    answers, desirable = whole.at(own), batch[LABEL][own] == 1
    surplus = beta * (answers.ratio - moved)
    losses = desirable_weight * (-surplus).sigmoid() * desirable + undesirable_weight * surplus.sigmoid() * ~desirable
    value = _labelled("kto", losses, answers, desirable, beta, beta * moved)
    return LossValue(value.terms, {**value.metrics, "z0": Term(moved, 1.0)})


def bco(batch: Batch, *, beta: float) -> LossValue:
    """desirable: -log sigmoid(r - d)    undesirable: -log sigmoid(-(r - d))    where r = beta rho

    BCO, arXiv:2404.04656: a classifier whose logit is the implicit reward. The shift d lies halfway between the
    mean rewards of both kinds and is without gradient; here it is that of the step, and no average is carried from step
    to step. A step of one kind alone has its mean. The mean is over all completions; the paper adds up that of each
    kind, which is twice this where both kinds are as many.

    A simplification: where liked and disliked answers belong to different kinds of prompts, the paper weighs the
    disliked ones by p(liked | x) / p(disliked | x), from a classifier of prompts that is trained beforehand. Here that
    ratio is 1, which is exact where every prompt has answers of both kinds, as with `pairs_to_labels`. TRL's `bco_pair`
    has neither ratio nor shift.
    """
    answers, desirable = completions(batch), batch[LABEL] == 1
    reward = beta * answers.ratio
    means = [reward[kind].mean() for kind in (desirable, ~desirable) if kind.any()]
    shift = (sum(means) / len(means)).detach()
    losses = -logsigmoid((reward - shift) * (2 * desirable - 1))
    value = _labelled("bco", losses, answers, desirable, beta, shift)
    return LossValue(value.terms, {**value.metrics, "shift": Term(shift, 1.0)})


def _labelled(name: str, losses: Tensor, answers: Side, desirable: Tensor, beta: float, threshold: Tensor) -> LossValue:
    """The mean of `losses` and what is reported, under the names that pairs have: chosen is desirable.

    accuracy: the share of rewards on the right side of `threshold`. A kind that a step has none of is not reported.
    """
    reward = beta * answers.ratio
    surplus = (reward - threshold) * (2 * desirable - 1)
    found: dict[str, Tensor | None] = {"accuracy": half_right(surplus), "kl": answers.kl}
    for side, which in (("chosen", desirable), ("rejected", ~desirable)):
        if which.any():
            found |= {f"reward/{side}": reward[which], f"logprob/{side}": answers.logprob[which]}
    means = {key: values.mean() for key, values in found.items() if values is not None}
    if desirable.any() and not desirable.all():
        means["margin"] = means["reward/chosen"] - means["reward/rejected"]
        means["length/difference"] = answers.length[desirable].mean() - answers.length[~desirable].mean()
    term = Term(losses.sum(), float(len(losses)))
    reported = {key: Term(value, 1.0) for key, value in means.items()}
    moments = correlation("length/correlation", reward, answers.length, float(len(reward)))
    return LossValue({name: term}, {**reported, **moments})

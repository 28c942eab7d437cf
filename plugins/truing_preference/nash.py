"""Nash-MD-PG, arXiv:2312.00886, section 7: the policy plays against an opponent that is held to the reference.

The preference need not come from a reward: what is sought is not the answer with the highest one but the policy that is
preferred to all others. The gradient ascended, with y drawn from the policy and y' from the opponent, is

    E[(P(y > y') - 1/2 - beta log pi(y|x) / ref(y|x)) grad log pi(y|x)]

the opponent being held constant. The estimator makes P(y > y') - 1/2, the loss does the rest.
"""

from __future__ import annotations

from torch import Tensor

from truing.fields import ADVANTAGES, GROUP, IDS, LOGPROBS, LOGPROBS_REF, OPPONENT, SCORES, SEQ, Batch
from truing.run import Run
from truing.stage import LossValue, Term
from truing_preference import menu_online
from truing_preference.sides import completions
from truing_tensor.comparisons import correlation
from truing_tensor.groups import take, take_completions
from truing_tensor.segments import segment_mean, segment_rest


class NashAdvantage:
    """How often a completion beats those of the opponent, against one half."""

    def __init__(self, spec: menu_online.NashAdvantage, run: Run) -> None:
        self._spec = spec

    def estimate(self, batch: Batch) -> Batch:
        """The policy's completions alone, with ADVANTAGES [token] in [-1/2, 1/2]; groups without both kinds are left
        out."""
        group, opponent = batch[GROUP], batch[OPPONENT] == 1
        both = set(group[opponent].tolist()) & set(group[~opponent].tolist())
        batch = take(batch, [number for number in range(len(batch[IDS])) if number in both])
        opponent = batch[OPPONENT] == 1
        advantage = self._win_rate(batch[SCORES], batch[GROUP], opponent) - 0.5
        own = take_completions(batch, ~opponent)
        return own.put(ADVANTAGES, advantage[own[SEQ]])

    def _win_rate(self, scores: Tensor, group: Tensor, opponent: Tensor) -> Tensor:
        """The mean probability, for each of the policy's completions, that it beats one of the opponent's."""
        lead = scores[~opponent][:, None] - scores[opponent]
        wins = 0.5 + 0.5 * lead.sign() if self._spec.hard else (lead / self._spec.scale).sigmoid()
        met = (group[~opponent][:, None] == group[opponent]).to(wins.dtype)
        return (wins * met).sum(1) / met.sum(1)


def nash_md(batch: Batch, *, beta: float) -> LossValue:
    """-A log pi(y|x) + beta D log pi(y|x), token by token, with D_t = sum over u >= t of log pi(y_u) / ref(y_u)

    ADVANTAGES A, LOGPROBS and LOGPROBS_REF [token], in nats; SEQ [token]; a mean over completions. D is without
    gradient: the expectation of D grad log pi over what the policy writes is the gradient of the KL divergence of whole
    completions, since grad log pi has mean 0 and what came before a token does not depend on it. With the log-ratio of
    the token alone in place of D, what a token does to later ones would be left out.

    The terms have the right gradient, and are themselves no divergence and no win rate; those are reported.
    """
    logprobs, seq = batch[LOGPROBS], batch[SEQ]
    whole = completions(batch)
    count = len(whole.length)
    rest = segment_rest(logprobs.detach() - batch[LOGPROBS_REF], seq, count)
    terms = {
        "policy": Term(-(batch[ADVANTAGES] * logprobs).sum(), "seq"),
        "kl": Term((rest * logprobs).sum(), "seq", beta),
    }
    won = segment_mean(batch[ADVANTAGES], seq, count) + 0.5
    assert whole.kl is not None, "the reference was asked for"
    metrics = {"win_rate": Term(won.sum(), "seq"), "kl": Term(whole.kl.sum(), "seq")}
    moments = correlation("length/correlation", beta * whole.ratio, whole.length, "seq")
    return LossValue(terms, {**metrics, **moments})

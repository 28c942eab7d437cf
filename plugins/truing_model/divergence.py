"""What another model says of every completion: how likely it is, and how far a policy has gone from there."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from truing.errors import Problem, UserError
from truing.fields import GROUP, LOGPROBS, LOGPROBS_OLD, PROMPT_TOKENS, SCORES, SEQ, TOKENS, Batch, fields
from truing.run import Run
from truing_model import menu_divergence, menu_likelihood, plugin
from truing_model.causal import CausalLm
from truing_tensor.segments import segment_sum


class Reference(CausalLm):
    """A language model that is only asked."""

    def logprobs(self, batch: Batch) -> Tensor:
        """[token] log-probabilities of what was sampled, in nats. Raises Stopped, and UserError for tokens that it
        does not know."""
        largest = max(int(batch[key].max()) for key in (PROMPT_TOKENS, TOKENS))
        if largest >= self.vocabulary:
            what = f"token {largest} was sampled, and this model has weights for {self.vocabulary}"
            raise UserError(Problem(self.spec.path, what, "use a reference with the policy's vocabulary"))
        return self._look(batch)[LOGPROBS]


class Likelihood:
    """Scores completions by how likely a model would write them."""

    def __init__(self, spec: menu_likelihood.Likelihood, run: Run) -> None:
        asked = plugin.CausalLm(path=spec.path, **spec.placement)
        self._model = Reference(asked, run.at(run.phase, fields()))
        self._model.network.requires_grad_(False)
        self._run = run

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], in nats. Raises Stopped."""
        found = await self._run.on_device(self._model.logprobs, batch)
        return batch.put(SCORES, segment_sum(found, batch[SEQ], len(batch[GROUP])))


class Divergence:
    """Scores completions by how much likelier they are under the policy than under the reference."""

    def __init__(self, spec: menu_divergence.Divergence, run: Run) -> None:
        asked = plugin.CausalLm(path=spec.path, **spec.placement)
        # What other stages of the phase want of the model that learns is not wanted of this one.
        self._model = Reference(asked, run.at(run.phase, fields()))
        self._model.network.requires_grad_(False)
        self._run = run
        self._estimate = spec.estimate

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], in nats. Raises Stopped."""
        reference = await self._run.on_device(self._model.logprobs, batch)
        ratio = batch[LOGPROBS_OLD] - reference.to(batch[LOGPROBS_OLD])
        return batch.put(SCORES, segment_sum(per_token(ratio, self._estimate), batch[SEQ], len(batch[GROUP])))


def per_token(ratio: Tensor, estimate: Literal["k1", "k3"]) -> Tensor:
    """What a token [token] adds to the divergence, of its log-ratio: k1 or k3 of http://joschu.net/blog/kl-approx.html.

    Both have the divergence of the token's distribution as their mean over what the policy samples.
    """
    return ratio if estimate == "k1" else (-ratio).exp() - 1 + ratio

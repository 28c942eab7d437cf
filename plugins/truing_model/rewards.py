"""The reward model: the same trunk and the same way to learn, with one number a completion as its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from truing.errors import Problem, UserError
from truing.fields import PROMPT_TOKENS, SCORES, TOKENS, Batch, Fields, fields
from truing.run import Run
from truing_model import plugin
from truing_model.causal import CausalLm
from truing_model.forward import HEADS
from truing_model.loading import load_scorer


class RewardModel(CausalLm):
    """A language model that gives SCORES [seq]."""

    def _load(self, path: str, held: torch.dtype) -> Any:
        model = load_scorer(self.spec, path, held).to(self.device)
        # transformers looks for the last token that is not padding: one that ends texts must not be taken for padding.
        if model.config.pad_token_id == self.tokenizer.eos_token_id:
            model.config.pad_token_id = None
        return model

    def _gives(self) -> Fields:
        return fields(SCORES)

    def _heads(self, base: Any) -> dict[str, nn.Module]:
        return {HEADS[SCORES]: base.score}

    def scores(self, batch: Batch) -> torch.Tensor:
        """SCORES [seq] of a batch with tokens, without gradients. Raises UserError for tokens it does not know."""
        largest = max(int(batch[key].max()) for key in (PROMPT_TOKENS, TOKENS))
        if largest >= self.vocabulary:
            what = f"token {largest} was sampled, and this reward model has weights for {self.vocabulary}"
            raise UserError(Problem(self.spec.path, what, "use a reward model with the policy's vocabulary"))
        return self._look(self.network, batch)[SCORES]


class RewardScorer:
    """Scores completions with a reward model that does not learn."""

    def __init__(self, spec: plugin.RewardScorer, run: Run) -> None:
        learns = plugin.RewardModel(path=spec.path, dtype=spec.dtype, device=spec.device)
        self._model = RewardModel(learns, run)
        self._model.network.requires_grad_(False)
        self._run = run

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq]. Raises Stopped."""
        return batch.put(SCORES, await self._run.on_device(self._model.scores, batch))

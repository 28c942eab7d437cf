"""The reward model: the same trunk and the same way to learn, with one number a completion as its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from truing.fields import SCORES, Fields, fields
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

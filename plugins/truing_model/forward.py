"""Rows to log-probabilities: the forward pass of a causal language model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from truing.fields import GROUP, IDS, LOGPROBS, Batch
from truing_model.encode import with_tokens
from truing_model.head import plain_head, token_logprobs
from truing_model.layout import Row, plain_rows, shared_rows

Layout = Callable[[Batch], list[Row]]
LAYOUTS: dict[str, Layout] = {"shared": shared_rows, "plain": plain_rows}


class Policy(nn.Module):
    """A language model behind one door: a batch in, the log-probability of every completion token out.

    model: a causal language model of transformers, or peft's wrapper of one. bf16: compute in bfloat16, whatever the
    type of the weights.
    """

    def __init__(self, model: nn.Module, layout: Layout, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.bf16 = bf16
        self.plain_head = plain_head(self.base) is not None

    @property
    def base(self) -> Any:
        """The model of transformers itself, adapters inside."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, batch: Batch) -> Batch:
        """LOGPROBS [token] of a micro-batch, in nats. Only what predicts a completion token reaches the head."""
        device = next(self.parameters()).device
        logprobs = [self.row(row.to(device)) for row in self.layout(batch)]
        return Batch({LOGPROBS: torch.cat(logprobs)})

    def row(self, row: Row) -> Tensor:
        """Log-probability [token] of each completion token of a row, in nats."""
        with torch.autocast(row.tokens.device.type, torch.bfloat16, enabled=self.bf16):
            if not self.plain_head:
                return row_logprobs(self.model, row)
            hidden = self.base.get_decoder()(**_inputs(row)).last_hidden_state[0]
        weight = self.base.get_output_embeddings().weight
        compute = torch.bfloat16 if self.bf16 else weight.dtype
        return token_logprobs(hidden[row.predicts], weight, row.targets, compute)[0]


def row_logprobs(model: nn.Module, row: Row) -> Tensor:
    """Log-probability [token] of a row by the model's own logits: for heads that do more than one matrix product."""
    logits = model(**_inputs(row), logits_to_keep=row.predicts).logits[0]
    return -cross_entropy(logits.float(), row.targets, reduction="none")


@torch.no_grad()
def choose_layout(model: PreTrainedModel, max_tokens: int) -> str:
    """`shared` if this architecture gives the same numbers in a shared row as one completion at a time, else `plain`.

    Asked of the model itself: one prompt with two short answers goes through both.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    attention = model.config._attn_implementation
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    if not takes_positions or attention not in ("sdpa", "eager") or (window and window < max_tokens):
        return "plain"
    text = Batch({IDS: ["probe"], GROUP: torch.tensor([0, 0])})
    probe = with_tokens(text, [[5, 6, 7, 8]], [[9, 10, 11], [12, 13, 9, 5]])
    shared, plain = (
        torch.cat([row_logprobs(model, row.to(model.device)) for row in rows(probe)]) for rows in LAYOUTS.values()
    )
    exact = 1e-3 if model.dtype == torch.float32 else 0.3
    return "shared" if bool((shared - plain).abs().max() < exact) else "plain"


def _inputs(row: Row) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": row.tokens[None], "use_cache": False}
    if row.mask is not None:
        inputs |= {"attention_mask": row.mask[None, None], "position_ids": row.positions[None]}
    return inputs

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
from truing_model.layout import Row, plain_rows, shared_rows

Layout = Callable[[Batch], list[Row]]
LAYOUTS: dict[str, Layout] = {"shared": shared_rows, "plain": plain_rows}


class Policy(nn.Module):
    """A language model behind one door: a batch in, the log-probability of every completion token out.

    bf16: compute in bfloat16 (weights keep their own type).
    """

    def __init__(self, model: nn.Module, layout: Layout, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.bf16 = bf16

    def forward(self, batch: Batch) -> Batch:
        """LOGPROBS [token] of a micro-batch, in nats. Only positions that predict a completion token reach the head."""
        device = next(self.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logprobs = [row_logprobs(self.model, row, device) for row in self.layout(batch)]
        return Batch({LOGPROBS: torch.cat(logprobs)})


def row_logprobs(model: nn.Module, row: Row, device: torch.device) -> Tensor:
    """Log-probability [token] of each completion token of a row, in nats."""
    options: dict[str, Any] = {}
    if row.mask is not None:
        options = {"attention_mask": row.mask[None, None].to(device), "position_ids": row.positions[None].to(device)}
    logits = model(
        input_ids=row.tokens[None].to(device), logits_to_keep=row.predicts.to(device), use_cache=False, **options
    ).logits[0]
    return -cross_entropy(logits.float(), row.targets.to(device), reduction="none")


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
    device = next(model.parameters()).device
    shared, plain = (torch.cat([row_logprobs(model, row, device) for row in rows(probe)]) for rows in LAYOUTS.values())
    exact = 1e-3 if model.dtype == torch.float32 else 0.3
    return "shared" if bool((shared - plain).abs().max() < exact) else "plain"

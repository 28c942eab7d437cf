"""What a forward pass costs on a device: for cutting a step evenly, and for telling how long one will take."""

from __future__ import annotations

from typing import Any

from truing_model.layout import Costs

PAIR = 2.0
"""how much slower a multiplication of attention runs than one of a layer's matrices, softmax included"""


def tokens_at_once(device: str) -> int:
    """How many tokens go forward at once unless a recipe says otherwise: more are no faster, and take more memory."""
    return 8192 if device == "cuda" else 1024


def costs_of(model: Any) -> Costs:
    """What a forward pass of a model costs, read off its weights."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    embeddings = model.get_input_embeddings().weight.numel()
    layers = sum(value.numel() for value in model.get_decoder().parameters()) - embeddings
    output = model.get_output_embeddings()
    return Costs(
        token=float(layers),
        pair=PAIR * 2 * heads * size * config.num_hidden_layers,
        head=float(output.weight.numel()) if output is not None else 0.0,
    )

"""What layers keep for the backward pass: less, or elsewhere.

What waits in the machine's own memory comes back to the GPU when it is needed. Weights stay where they are: they are
there anyway, and a weight that processes share must not be kept whole. With gradient checkpointing only what comes into
a layer is kept, so only that travels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from truing.errors import Problem, UserError
from truing_model import plugin
from truing_tensor.decoder import Decoder


class Away(save_on_cpu):
    """torch's, but for weights. pinned: through memory that a GPU reads while it computes."""

    def __init__(self, pinned: bool) -> None:
        super().__init__(pinned)
        away, back = self.pack_hook, self.unpack_hook
        self.pack_hook = lambda value: value if _is_weight(value) else away(value)
        self.unpack_hook = lambda kept: kept if isinstance(kept, Tensor) else back(kept)


def keeping(spec: plugin.LanguageModelSpec, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """What stands around a forward pass that learns. Raises UserError where there is nowhere else to keep anything."""
    if not spec.activation_offload:
        return nullcontext
    if device.type == "cpu":
        what = "there is no GPU here, so activations are in the machine's own memory already"
        raise UserError(Problem("activation_offload", what, "take it out; gradient_checkpointing = true keeps less"))
    return lambda: Away(pinned=True)


def checkpointed(model: Any, decoder: Decoder | None) -> None:
    """Have layers keep what comes in alone, and be computed again."""
    # The older name goes in transformers 6, the newer came in 5.2x.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    if decoder:
        decoder.checkpointing = True


def _is_weight(value: Tensor) -> bool:
    return isinstance(value if value._base is None else value._base, nn.Parameter)

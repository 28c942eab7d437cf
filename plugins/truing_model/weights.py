"""The weights of a model at one version, adapters merged in, for whoever samples from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelWeights:
    """version: optimizer steps taken. origin: what transformers loads configuration and tokenizer from. model: of
    transformers, or peft's wrapper of one. held_to: the weights of its reference; a reference has none but itself.
    adapted: with its adapters, else the weights below them. whole: puts weights together that processes share."""

    version: int
    origin: str
    model: nn.Module
    held_to: Callable[[], ModelWeights] | None = None
    adapted: bool = True
    whole: Callable[[], AbstractContextManager[None]] = nullcontext

    def reference(self) -> ModelWeights:
        """The weights of the reference, as it was loaded."""
        return self.held_to() if self.held_to else self

    @torch.no_grad()
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by the name it has without adapters. One of a layer with an adapter is made when it is asked
        for; all others are the model's own, not copies."""
        with self.whole():
            yield from self._tensors()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        model: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        for name, value in model.named_parameters():
            if ".lora_" in name or "modules_to_save" in name:
                continue
            place, _, kind = name.rpartition(".")
            plain = name.replace(".base_layer.", ".")
            if self.adapted and place.endswith(".base_layer") and kind == "weight":
                yield plain, value + _update(model.get_submodule(place.removesuffix(".base_layer")), value)
            else:
                yield plain, value


def _update(layer: Any, weight: Tensor) -> Tensor | float:
    """What the adapters of a layer add to its weight, in the weight's type."""
    updates = [layer.get_delta_weight(name) for name in layer.active_adapters]
    return torch.stack(updates).sum(0).to(weight.dtype) if updates else 0.0

"""One trunk for several models: weights that do not change and are equal are held once.

A model that learns through LoRA leaves what is below its adapters as it was loaded. Where policy, critic and reward
model began as one model, each is an adapter and a head on the same trunk, and the reference is the policy without its
adapter: four models with the weights of one.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

_HELD: WeakValueDictionary[tuple[Any, ...], nn.Parameter] = WeakValueDictionary()
"""what is held frozen, the newest by its name, shape, type and device"""
_SHARED: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()
"""what several models hold, by its identity"""


def share(model: nn.Module) -> None:
    """Let a model hold those of its frozen weights that another holds, too, and that are equal to the last bit."""
    taken: dict[int, nn.Parameter] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            continue
        key = (_plain(name), value.shape, value.dtype, value.device)
        other = _HELD.get(key)
        if other is not None and other is not value and torch.equal(other, value):
            taken[id(value)] = _SHARED[id(other)] = other
        else:
            _HELD[key] = value
    _replace(model, taken)


def unshare(model: nn.Module) -> None:
    """Give a model frozen weights of its own, so that they may be changed."""
    own = {
        id(value): nn.Parameter(value.detach().clone(), requires_grad=False)
        for value in model.parameters()
        if id(value) in _SHARED
    }
    _replace(model, own)


def _replace(model: nn.Module, new: dict[int, nn.Parameter]) -> None:
    """Put parameters in the place of others, wherever a model has them: tied ones stay tied."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None and id(value) in new:
                module._parameters[name] = new[id(value)]


def _plain(name: str) -> str:
    """The name of a weight without what peft adds."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")

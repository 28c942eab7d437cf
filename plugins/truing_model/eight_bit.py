"""AdamW that keeps its two means in eight bits, in blocks of 256 with a scale each (arXiv:2110.02861): that of torchao.

A tensor of fewer than 4,096 weights keeps them in fp32. What is kept is told as plain tensors, so a checkpoint needs no
pickle and a resume is exact. Of a weight that processes share it is told in fp32, because blocks run across their
borders, and is rounded once more by who goes on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torchao.optim import AdamW8bit as TorchaoAdamW8bit

from truing_model.sharding import like, local

_SIGNED = {"exp_avg": True, "exp_avg_sq": False}


class AdamW8bit(TorchaoAdamW8bit):
    """torchao's, with learning rates that are numbers and a state that is plain tensors."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take parameters with options of their own."""
        super().add_param_group(param_group)
        self.param_groups[-1]["lr"] = self.defaults["lr"]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move the weights. On a CPU nothing is compiled: it would take longer than it saves."""
        rates = [group["lr"] for group in self.param_groups]
        on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
        for group in self.param_groups:
            group["lr"] = torch.tensor(group["lr"])
        with torch.compiler.set_stance("force_eager") if on_cpu else nullcontext():
            found = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return found

    def state_dict(self) -> dict[str, Any]:
        """What it keeps: of a mean in eight bits its codes, and its scales as NAME_scale."""
        told = super().state_dict()
        return {**told, "state": {index: _plain(slots) for index, slots in told["state"].items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what it kept."""
        weights = [value for group in self.param_groups for value in group["params"]]
        kept = {index: self._in_eight_bits(weights[index], slots) for index, slots in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": kept})

    def _in_eight_bits(self, weight: Tensor, slots: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(slots)
        for slot, signed in _SIGNED.items():
            found[slot] = self._new_buffer(weight, signed)
            mean, told, scale = local(found[slot]), slots[slot], found.pop(f"{slot}_scale", None)
            if scale is not None and isinstance(told, DTensor):
                whole = self._subclass_zeros(torch.empty(told.shape, device=mean.device), signed, self.block_size)
                whole.codes.copy_(told.full_tensor())
                whole.scale.copy_(scale)
                told, scale = distribute_tensor(whole.dequantize(), told.device_mesh, told.placements), None
            if scale is None:
                mean.copy_(local(told))
            else:
                mean.codes.copy_(told)
                mean.scale.copy_(scale)
        return found


def _plain(slots: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(slots)
    for slot in _SIGNED:
        mean: Any = local(slots[slot])
        if not hasattr(mean, "codes"):
            continue
        if isinstance(slots[slot], DTensor):
            found[slot] = like(slots[slot], mean.dequantize())
        else:
            found |= {slot: mean.codes, f"{slot}_scale": mean.scale}
    return found

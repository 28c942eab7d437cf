"""AdamW and its schedule."""

from __future__ import annotations

from collections.abc import Mapping

from torch.nn import Parameter
from torch.optim import AdamW as TorchAdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from truing.run import Run
from truing_model import plugin


class AdamW:
    """Builds torch's AdamW over the parameters it is given; matrices decay, vectors do not."""

    def __init__(self, spec: plugin.AdamW, run: Run) -> None:
        self.spec = spec
        self.clip = spec.clip

    def over(self, parameters: Mapping[str, Parameter], steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer and its schedule over `steps` steps."""
        spec = self.spec
        matrices = [value for value in parameters.values() if value.ndim >= 2]
        vectors = [value for value in parameters.values() if value.ndim < 2]
        groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = TorchAdamW(
            [group for group in groups if group["params"]],
            lr=spec.lr,
            betas=(spec.beta1, spec.beta2),
            eps=spec.epsilon,
            fused=True,
        )
        kind = "constant_with_warmup" if spec.schedule == "constant" else spec.schedule
        scheduler = get_scheduler(
            kind, optimizer, num_warmup_steps=round(spec.warmup * steps), num_training_steps=steps
        )
        return optimizer, scheduler

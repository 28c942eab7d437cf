"""AdamW and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch.nn import Parameter
from torch.optim import AdamW as TorchAdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from truing.run import Run
from truing_model import plugin


class AdamW:
    """Builds torch's AdamW, or that of eight bits, over the parameters it is given; matrices decay, vectors do not."""

    def __init__(self, spec: plugin.AdamW, run: Run) -> None:
        self.spec = spec
        self.clip = spec.clip

    def over(self, parameters: Mapping[str, Parameter], steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer and its schedule over `steps` steps."""
        spec = self.spec
        matrices = [value for value in parameters.values() if value.ndim >= 2]
        vectors = [value for value in parameters.values() if value.ndim < 2]
        groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        kind = _eight_bit() if spec.bits == 8 else partial(TorchAdamW, fused=True)
        optimizer = kind(
            [group for group in groups if group["params"]],
            lr=spec.lr,
            betas=(spec.beta1, spec.beta2),
            eps=spec.epsilon,
        )
        schedule = "constant_with_warmup" if spec.schedule == "constant" else spec.schedule
        scheduler = get_scheduler(
            schedule, optimizer, num_warmup_steps=round(spec.warmup * steps), num_training_steps=steps
        )
        return optimizer, scheduler


def _eight_bit() -> Callable[..., Optimizer]:
    # Here, because torchao need not be installed.
    from truing_model.eight_bit import AdamW8bit

    return AdamW8bit

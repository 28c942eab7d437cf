"""LoRA through peft, which is imported only where an adapter is asked for: it takes seconds."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from truing.errors import Problem, UserError
from truing_model.plugin import CausalLm


def add_lora(model: PreTrainedModel, spec: CausalLm) -> Any:
    """The model with fresh adapters, everything else frozen. Raises UserError if no module has the target names."""
    from peft import LoraConfig, get_peft_model

    scores = hasattr(model, "score")
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=spec.lora_targets or "all-linear",
        # A head that is new learns as a whole.
        exclude_modules=["score"] if scores else None,
        task_type=None if scores else "CAUSAL_LM",
        # GPT-2's layers keep their weights the other way round.
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for a name that is on its way out; a user can do nothing about it.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        known = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
        raise UserError(
            Problem("lora_targets", str(error).splitlines()[0], f"linear layers here: {', '.join(known)}")
        ) from None


def merged(model: Any) -> PreTrainedModel:
    """The plain model with the adapter's update added in fp32, where small updates are not rounded away."""
    return model.float().merge_and_unload()

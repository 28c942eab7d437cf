"""LoRA through peft, which is imported only where an adapter is asked for: it takes seconds."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from truing.errors import Problem, UserError
from truing_model.plugin import CausalLm
from truing_model.trunk import unshare


def add_lora(model: PreTrainedModel, spec: CausalLm) -> Any:
    """The model with fresh adapters, everything else frozen. Raises UserError if no module has the target names."""
    from peft import LoraConfig, get_peft_model

    scores = hasattr(model, "score")
    layers = int(model.config.get_text_config().num_hidden_layers)
    if spec.lora_layers > layers:
        mend = f"lora_layers = {layers}, or leave it out"
        raise UserError(Problem("lora_layers", f"the last {spec.lora_layers} layers of {layers}", mend))
    last = list(range(layers - spec.lora_layers, layers)) if spec.lora_layers else None
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=spec.lora_targets or (_linear(model) if last else "all-linear"),
        layers_to_transform=last,
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
        known = ", ".join(_linear(model))
        raise UserError(Problem("lora_targets", str(error).splitlines()[0], f"linear layers here: {known}")) from None


def _linear(model: PreTrainedModel) -> list[str]:
    """The names of linear layers but the one that makes words."""
    parts = [(name, part) for name, part in model.named_modules() if part is not model.get_output_embeddings()]
    return sorted({name.rpartition(".")[2] for name, part in parts if isinstance(part, nn.Linear | Conv1D)})


def keep_head(adapter: Path, head: Mapping[str, Tensor]) -> None:
    """Write the head of a reward model into its adapter, as peft does with a module that learned as a whole: without it
    the adapter scores with a head that is new each time."""
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    named = {f"base_model.model.score.{name}": value.contiguous() for name, value in head.items()}
    save_file(load_file(weights) | named, weights, {"format": "pt"})
    options = json.loads(config.read_text(encoding="utf-8"))
    options |= {"modules_to_save": ["score"], "task_type": "SEQ_CLS"}
    config.write_text(json.dumps(options, indent=2), encoding="utf-8")


def adapter_options(folder: Path) -> dict[str, Any]:
    """The options that an adapter was made with, read off its folder. Raises UserError where there is none."""
    file = folder / "adapter_config.json"
    if not file.exists():
        what = "it has no adapter/: it learned with all its weights, or is not from here"
        raise UserError(Problem(str(folder.parent), what, "train it with lora_rank, or take `trunk` out"))
    config = json.loads(file.read_text(encoding="utf-8"))
    return {
        "lora_rank": config["r"],
        "lora_alpha": config["lora_alpha"],
        "lora_targets": sorted(config["target_modules"]),
        "lora_layers": len(config["layers_to_transform"] or ()),
    }


def load_adapter(folder: Path, model: Any) -> None:
    """Put the weights of an adapter, its head among them, into a model that was made with its options."""
    from peft import set_peft_model_state_dict

    weights = load_file(folder / "adapter_model.safetensors")
    heads = {name: value for name, value in weights.items() if ".score." in name}
    set_peft_model_state_dict(model, {name: value for name, value in weights.items() if name not in heads})
    model.get_base_model().score.load_state_dict({name.rpartition(".")[2]: value for name, value in heads.items()})


def merged(model: Any) -> PreTrainedModel:
    """The plain model with the adapter's update added in fp32, where small updates are not rounded away."""
    unshare(model)
    for value in model.parameters():
        value.data = value.data.float()
    return model.merge_and_unload()

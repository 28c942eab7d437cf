"""Checkpoints without pickle: tensors in safetensors, everything else in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from truing.fields import Batch

_OPTIMIZER = "optimizer."
_HEADS = "heads.safetensors"


def save_state(folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, version: int) -> None:
    """Write trainable weights, optimizer, schedule and random state into a folder: a file for every kind of tensor.

    The files are written side by side: one writer alone does not keep a disk busy, and a person may be waiting.
    """
    files = {"weights": {name: value.detach().contiguous() for name, value in trainable(model).items()}}
    files["random"] = _random_state()
    state = optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                files.setdefault(f"{_OPTIMIZER}{slot}", {})[str(index)] = value
            else:
                numbers[f"{index}.{slot}"] = value
    with ThreadPoolExecutor() as writers:
        for done in [writers.submit(save_file, file, folder / f"{name}.safetensors") for name, file in files.items()]:
            done.result()
    plain = {
        "groups": state["param_groups"],
        "numbers": numbers,
        "scheduler": scheduler.state_dict(),
        "version": version,
    }
    (folder / "state.json").write_text(json.dumps(plain), encoding="utf-8")


def load_state(folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> int:
    """Put everything back in place; returns the version."""
    weights = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, value in trainable(model).items():
            value.copy_(weights[name])
    plain = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    slots: dict[int, dict[str, Any]] = {}
    for file in folder.glob(f"{_OPTIMIZER}*.safetensors"):
        for index, value in load_file(file).items():
            slots.setdefault(int(index), {})[file.stem.removeprefix(_OPTIMIZER)] = value
    for key, value in plain["numbers"].items():
        index, _, slot = key.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": plain["groups"]})
    scheduler.load_state_dict(plain["scheduler"])
    _set_random_state(load_file(folder / "random.safetensors"))
    return int(plain["version"])


def save_heads(folder: Path, heads: nn.ModuleDict) -> None:
    """Write the heads that transformers does not know of beside the model, if there are any."""
    if len(heads):
        save_file({name: value.contiguous() for name, value in heads.state_dict().items()}, folder / _HEADS)


def load_heads(folder: Path, heads: Mapping[str, nn.Module]) -> None:
    """Put the heads that were written beside a model in place, those that are wanted."""
    if heads and (folder / _HEADS).exists():
        nn.ModuleDict(dict(heads)).load_state_dict(load_file(folder / _HEADS), strict=False)


def dump(folder: Path, batch: Batch) -> Path:
    """Write a batch for a person to look at: its numbers in `numbers.safetensors`, its texts in `texts.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {key.name: value.detach().cpu().contiguous() for key, value in batch.items() if isinstance(value, Tensor)}
    texts = {key.name: value for key, value in batch.items() if not isinstance(value, Tensor)}
    save_file(numbers, folder / "numbers.safetensors")
    (folder / "texts.json").write_text(json.dumps(texts, indent=2), encoding="utf-8")
    return folder


def trainable(model: nn.Module) -> Mapping[str, nn.Parameter]:
    """The parameters that learn, by name; tied ones once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_state(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name != "cpu" and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda")))

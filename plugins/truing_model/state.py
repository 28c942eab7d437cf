"""Checkpoints without pickle: tensors in safetensors, everything else in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from truing.fields import Batch
from truing_model.sharding import Share, like, local

ALONE = Share(0, 1)
_WEIGHTS = "weights"
_OPTIMIZER = "optimizer."
_HEADS = "heads.safetensors"


def save_state(
    folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, version: int, share: Share = ALONE
) -> None:
    """Write trainable weights, optimizer, schedule and random state into a folder: a file for every kind of tensor, and
    of what processes share a file for each of them. What is whole in all of them is written by the first.

    The files are written side by side: one writer alone does not keep a disk busy, and a person may be waiting.
    """
    tensors: dict[str, dict[str, Tensor]] = {
        _WEIGHTS: {name: value.detach() for name, value in trainable(model).items()}
    }
    state = optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors.setdefault(f"{_OPTIMIZER}{slot}", {})[str(index)] = value
            else:
                numbers[f"{index}.{slot}"] = value
    files: dict[str, dict[str, Tensor]] = {}
    for kind, values in tensors.items():
        for name, value in values.items():
            if isinstance(value, DTensor):
                files.setdefault(_part(kind, share), {})[name] = local(value).contiguous()
            elif share.rank == 0:
                files.setdefault(kind, {})[name] = value.contiguous()
    if share.rank == 0:
        files["random"] = _random_state()
        plain = {
            "groups": state["param_groups"],
            "numbers": numbers,
            "scheduler": scheduler.state_dict(),
            "version": version,
        }
        (folder / "state.json").write_text(json.dumps(plain), encoding="utf-8")
    with told_by_the_disk(), ThreadPoolExecutor() as writers:
        for done in [writers.submit(save_file, file, folder / f"{name}.safetensors") for name, file in files.items()]:
            done.result()


@contextmanager
def told_by_the_disk() -> Iterator[None]:
    """What safetensors cannot write is said as Python says it. Raises OSError."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from None


def load_state(
    folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, share: Share = ALONE
) -> int:
    """Put everything back in place, however many processes wrote it; returns the version."""
    weights = _Kept(folder, _WEIGHTS)
    parameters = trainable(model)
    with torch.no_grad():
        for name, value in parameters.items():
            local(value).copy_(weights.of(name, value, share))
    plain = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    places = {id(value): index for index, value in enumerate(_in_order(optimizer))}
    slots: dict[int, dict[str, Any]] = {index: {} for index in places.values()}
    for slot in {file.name.split(".")[1].partition("-")[0] for file in folder.glob(f"{_OPTIMIZER}*.safetensors")}:
        kept = _Kept(folder, f"{_OPTIMIZER}{slot}")
        for value in parameters.values():
            index = places[id(value)]
            if str(index) in kept:
                alike = kept.shape(str(index)) == list(value.shape)
                found = kept.of(str(index), value if alike else None, share)
                slots[index][slot] = like(value, found.to(value.device)) if alike else found
    for key, value in plain["numbers"].items():
        index, _, slot = key.partition(".")
        slots[int(index)][slot] = value
    state = {index: kept for index, kept in slots.items() if kept}
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
    scheduler.load_state_dict(plain["scheduler"])
    _set_random_state(load_file(folder / "random.safetensors"))
    return int(plain["version"])


class _Kept:
    """The tensors of one kind in a checkpoint: whole ones, and rows that lie in the files of several processes."""

    def __init__(self, folder: Path, kind: str) -> None:
        names = [*folder.glob(f"{kind}.safetensors"), *sorted(folder.glob(f"{kind}-*-of-*.safetensors"))]
        self._lie: dict[str, list[Any]] = {}
        for file in names:
            opened = safe_open(file, "pt")
            for name in opened.keys():  # noqa: SIM118, it is no dict
                self._lie.setdefault(name, []).append(opened)

    def __contains__(self, name: str) -> bool:
        return name in self._lie

    def shape(self, name: str) -> list[int]:
        """The shape of the whole tensor."""
        shapes = [opened.get_slice(name).get_shape() for opened in self._lie[name]]
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]] if shapes[0] else []

    def of(self, name: str, value: Tensor | None, share: Share) -> Tensor:
        """The rows of a tensor that this process holds of `value`; of what it holds whole, all."""
        shape = self.shape(name)
        if not shape:
            return self._lie[name][0].get_tensor(name)
        rows = share.rows(shape[0]) if isinstance(value, DTensor) else slice(0, shape[0])
        found: list[Tensor] = []
        start = 0
        for part in (opened.get_slice(name) for opened in self._lie[name]):
            size = part.get_shape()[0]
            begin, end = max(rows.start - start, 0), min(rows.stop - start, size)
            if begin < end:
                found.append(part[begin:end])
            start += size
        return torch.cat(found) if found else torch.empty(0, *shape[1:])


def _part(kind: str, share: Share) -> str:
    return f"{kind}-{share.rank + 1:05d}-of-{share.count:05d}"


def _in_order(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of an optimizer as it counts them."""
    return [value for group in optimizer.param_groups for value in group["params"]]


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

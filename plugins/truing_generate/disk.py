"""Weights on their way to a server through a folder that both can reach.

They are written under another name and renamed when they are whole, so a server never reads half of them, and split
into files, so that a model is never in memory twice.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from truing.stage import Weights
from truing.whole import write_whole

FILE_BYTES = 2**30
_VERSION = re.compile(r"version-\d+")


def write(weights: Weights, folder: Path) -> Path:
    """Write weights as safetensors; the folder of this version. Raises RunFailed where they cannot be written."""
    return write_whole(folder / f"version-{weights.version}", lambda place: _files(weights.tensors(), place))


def keep_only(version: Path) -> None:
    """Remove the other versions beside this one. What cannot be removed stays."""
    for other in version.parent.iterdir():
        if other != version and _VERSION.fullmatch(other.name.removesuffix(".part")):
            shutil.rmtree(other, ignore_errors=True)


def _files(tensors: Iterable[tuple[str, Tensor]], place: Path) -> None:
    """Files of FILE_BYTES or a little more, and an index if there are several."""
    where: dict[str, str] = {}
    waiting: dict[str, Tensor] = {}
    # A tied tensor comes under two names and is written once. Sources are held until their file is written: the address
    # of one that is gone may be given to the next.
    held: dict[tuple[int, int], Tensor] = {}
    size = total = 0

    def flush() -> None:
        name = f"model-{len(set(where.values())) + 1:05}.safetensors"
        save_file(waiting, place / name, metadata={"format": "pt"})
        where.update(dict.fromkeys(waiting, name))
        waiting.clear()
        held.clear()

    for name, tensor in tensors:
        source = tensor.detach()
        identity = (source.data_ptr(), source.nbytes)
        if source.nbytes and identity in held:
            continue
        held[identity] = source
        waiting[name] = source.cpu().contiguous()
        size, total = size + source.nbytes, total + source.nbytes
        if size >= FILE_BYTES:
            flush()
            size = 0
    if waiting or not where:
        flush()
    if len(set(where.values())) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

"""What the `path` of a model names. Imports nothing heavy: a recipe's check uses it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from glob import glob
from importlib.util import find_spec
from pathlib import Path, PurePath

from truing.errors import did_you_mean
from truing.stage import Fault

AS_SAFETENSORS = "write it as safetensors, by save_pretrained, where you trust it"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def problems(path: str) -> Iterable[Fault]:
    """What can be seen to be wrong with a path without loading anything."""
    if path.startswith("@"):
        return
    local = local_path(path)
    if path.startswith("pkg:") and _leads_out(path.partition("/")[2]):
        yield Fault("path", f"{path} leads out of the package", "write pkg:PACKAGE/FILE")
    elif path.startswith("pkg:") and local is None:
        package = path.removeprefix("pkg:").partition("/")[0]
        if package.isidentifier():
            mend = f"pip install {package.replace('_', '-')}"
            yield Fault("path", f'the package "{package}" is not installed', mend)
        else:
            yield Fault("path", f'"{package}" cannot be a package', "write pkg:PACKAGE/FILE")
    elif local is None:
        if not _HUB.fullmatch(path):
            yield Fault("path", f'"{path}" is no folder here and no hub id', "hub ids look like organisation/model")
    elif not os.path.exists(local):
        beside = glob(f"*{local.suffix}", root_dir=local.parent) if os.path.isdir(local.parent) else []
        mend = did_you_mean(local.name, beside) or "name a folder, a .gguf file or a hub id"
        yield Fault("path", f"no {local}", mend)
    elif local.is_dir() and not (local / "config.json").exists():
        yield Fault(
            "path", f"{local} holds no model: it has no config.json", "name a folder that save_pretrained wrote"
        )
    elif local.is_dir() and (what := strange(local)):
        yield Fault("path", what, AS_SAFETENSORS)
    elif local.is_file() and local.suffix != ".gguf":
        yield Fault("path", f"{local} is no model", "name a folder that save_pretrained wrote, or a .gguf file")


def local_path(path: str) -> Path | None:
    """The file or folder a path names, there or not; None for a hub id and for a package that is not installed."""
    if path.startswith("pkg:"):
        package, _, inside = path.removeprefix("pkg:").partition("/")
        found = find_spec(package) if package.isidentifier() and package != "__main__" else None
        places = list(found.submodule_search_locations or []) if found else []
        return Path(places[0]) / inside if places else None
    place = Path(os.path.expanduser(path))
    looks_local = path.startswith((".", "/", "~")) or path.endswith(".gguf") or path.count("/") > 1
    return place.absolute() if looks_local or os.path.exists(place) else None


def strange(folder: Path) -> str:
    """Why the weights in a model's folder are not to be read, "" if they may: a pickle runs code when it is read, and
    an index may name files that are not the model's."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            outside = sorted(name for name in names if name != os.path.basename(name) or name in ("", ".", ".."))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return f"{index} is no index of weights"
        if outside:
            return f"{index} names {outside[0]}, which is no file beside it"
    pickled = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
    if pickled and not any(folder.glob("*.safetensors")):
        return f"{folder} has its weights in {pickled[0]}, and a pickle can run code when it is read"
    return ""


def _leads_out(inside: str) -> bool:
    return inside.startswith("/") or ".." in PurePath(inside).parts

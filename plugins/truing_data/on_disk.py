"""The files that a `path` of a recipe means, found without opening any."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import glob
from pathlib import Path

from truing.errors import did_you_mean
from truing.stage import Fault


def paths(written: str | list[str]) -> list[Path]:
    """The files that a `path` means, each once: those it names, and those its patterns match, in alphabetical order."""
    found: dict[Path, None] = {}
    for pattern in [written] if isinstance(written, str) else written:
        path = Path(os.path.expanduser(pattern))
        if os.path.exists(path):
            found[path] = None
        elif "\0" not in pattern:
            matches = map(Path, glob(str(path), recursive=True, include_hidden=True))
            found.update(dict.fromkeys(sorted(match for match in matches if match.is_file())))
    return list(found)


def missing_files(written: str | list[str]) -> Iterable[Fault]:
    """What is wrong with a `path` that is to name files."""
    patterns = [written] if isinstance(written, str) else written
    if not patterns:
        yield Fault("path", "path names no file")
    for pattern in patterns:
        path = Path(os.path.expanduser(pattern))
        if not paths(pattern):
            what = "no file matches" if any(sign in pattern for sign in "*?[") else "no file"
            yield Fault("path", f"{what} {path.absolute()}", neighbour(path))
        elif os.path.isdir(path):
            yield Fault("path", f"{path.absolute()} is a folder", f'name its files, for example path = "{path}/*"')


def neighbour(path: Path) -> str:
    """The file beside a missing one that may have been meant, or the folder that is missing too."""
    if os.path.isdir(path.parent):
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return f"there is no folder {path.parent.absolute()} either; paths are relative to where truing is started"

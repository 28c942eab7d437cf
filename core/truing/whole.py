"""Files and folders that are whole or not there, and sums that tell bytes that are others from those that were written.

A folder is written under another name, synced, and renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

from truing.errors import RunFailed

SUMS = "SHA256SUMS"
"""the checksums of a folder, as `sha256sum -c` reads them"""


def write_whole(target: Path, write: Callable[[Path], object]) -> Path:
    """Fill a folder under another name, sync every file, and rename it into place. Raises RunFailed on a full disk."""
    # A run that was stopped may have left behind a thread that still writes what a resume in this process writes, too.
    with _WRITING:
        return _written(target, write)


_WRITING = threading.Lock()


def _written(target: Path, write: Callable[[Path], object]) -> Path:
    waiting = target.with_name(target.name + ".part")
    shutil.rmtree(waiting, ignore_errors=True)
    try:
        waiting.mkdir(parents=True)
        write(waiting)
        for path in [*waiting.rglob("*"), waiting]:
            _sync(path)
        if target.exists():
            shutil.rmtree(target)
        waiting.rename(target)
        _sync(target.parent)
    except OSError as error:
        shutil.rmtree(waiting, ignore_errors=True)
        raise RunFailed(f"cannot write {target}: {error.strerror or error}") from error
    return target


def put(path: Path, content: bytes) -> None:
    """Write or replace a file, whole. Raises RunFailed when the disk does not take it."""
    waiting = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting.write_bytes(content)
        waiting.replace(path)
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror}") from None


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """The same files in another folder, either of which may be removed; where links are known they take no space."""

    def one(name: str, other: str) -> None:
        try:
            os.link(name, other)
        except OSError:
            shutil.copy2(name, other)

    shutil.copytree(source, target, copy_function=one, dirs_exist_ok=True)


def sum_up(folder: Path) -> None:
    """Add the checksums of all its files to a folder."""
    (folder / SUMS).write_text("".join(f"{sum_of(folder / name)}  {name}\n" for name in _files(folder)))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def corrupt(folder: Path, more: bool = False) -> str:
    """What is wrong with a folder, "" if its files are those that were written. more: there may be others, too."""
    try:
        sums = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
        if not more and {SUMS, *(name for _, name in sums)} != set(_files(folder)):
            return f"its files are not those in {SUMS}"
        for expected, name in sums:
            if sum_of(folder / name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be checked: {error}"
    return ""


def crc_of(content: bytes) -> bytes:
    """The CRC-32 of a line, in hexadecimal: no burst of up to 32 bits passes it."""
    return b"%08x" % zlib.crc32(content)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)

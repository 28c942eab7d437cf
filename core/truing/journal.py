"""What a run keeps on disk, so that it says what it is and can go on after any end.

    <run>/run.json         name, status, process, versions: written first, replaced whole
    <run>/recipe.toml      the recipe as it was written      resolved.toml   with every default filled in
    <run>/events.jsonl     every event, one line each
    <run>/<phase>/checkpoints/step-000012/    what a phase goes on from      model/   what it made, or
    <run>/<phase>/batches.jsonl               what it has written so far     data/    what it wrote: groups.jsonl
    <run>/<phase>/best/                       the best look so far; every checkpoint has that which it knew

What is read again is whole or not there, and has sums (`whole`).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from truing import events
from truing.errors import Problem, RunFailed, UserError
from truing.events import Event
from truing.recipe import Recipe
from truing.until import Mark, Watched
from truing.whole import corrupt, crc_of, link, put, sum_up, write_whole

GROUPS = "groups.jsonl"
MEMORY = "loss.json"
"""what a loss remembers: in a checkpoint, and beside the model that was made"""
_SEAL = b',"crc32":"'
"""how the last entry of an event begins: the checksum of what is before it"""


class RunFile(msgspec.Struct, kw_only=True, frozen=True):
    """run.json. status: running, finished, failed or interrupted; `running` with a dead process was killed."""

    format: int = 1
    name: str
    status: str
    reason: str = ""
    started: str
    pid: int
    host: str
    place: str
    """the folder it was started in, to which the paths of its recipe are relative"""
    digest: str
    versions: dict[str, str]
    about: str = (
        "A run of truing. `truing resume` on this folder goes on where it stopped; events.jsonl tells what happened."
    )
    crc32: str = ""
    """of what the others say"""


class Position(msgspec.Struct, kw_only=True, frozen=True):
    """Where a phase stood at a checkpoint.

    read: groups read in this epoch. waves, groups: batches and groups read in all epochs. dropped, failed: groups that
    were lost so far, truncated: completions that were cut, alike: pairs left out. watched: what it waits for. best: the
    best look. controller: what its controller knows.
    """

    step: int = 0
    epoch: int = 0
    read: int = 0
    waves: int = 0
    groups: int = 0
    dropped: int = 0
    failed: int = 0
    truncated: int = 0
    alike: int = 0
    watched: Watched = {}
    best: Mark | None = None
    controller: dict[str, float] = {}


class Journal:
    """The run's folder. Raises UserError when it cannot be made or is no run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = folder / "events.jsonl"
        self._read = 0, 0
        """up to which line the events were read, and where it ends: whoever follows a long run reads no line twice"""
        self._torn = b""
        """what ends a line of which only a part was written"""

    @classmethod
    def create(cls, root: Path, recipe: Recipe, versions: dict[str, str]) -> Journal:
        """A new folder under `root`, named after the recipe and the moment."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        for attempt in range(100):
            folder = root / (f"{recipe.name}-{stamp}" + (f"-{attempt}" if attempt else ""))
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except OSError as error:
                what = f"cannot keep a run here: {error.strerror}"
                raise UserError(Problem(str(root), what, "choose another place with --folder")) from None
        else:
            raise UserError(Problem(str(root), "a hundred runs began here this second"))
        journal = cls(folder)
        put(folder / "recipe.toml", recipe.text.encode())
        put(folder / "resolved.toml", msgspec.toml.encode(recipe.resolved()))
        journal.write(
            RunFile(
                name=recipe.name,
                status="running",
                started=datetime.now().astimezone().isoformat(timespec="seconds"),
                pid=os.getpid(),
                host=socket.gethostname(),
                place=os.getcwd(),
                digest=recipe.digest(),
                versions=versions,
            )
        )
        return journal

    def read(self) -> RunFile:
        """run.json as it stands; one without a sum is believed."""
        try:
            run = msgspec.json.decode((self.folder / "run.json").read_bytes(), type=RunFile)
            bare = msgspec.structs.replace(run, crc32="")
            if run.crc32 not in ("", _crc_of(bare)):
                raise msgspec.DecodeError
            return bare
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            raise UserError(
                Problem(
                    str(self.folder),
                    "this is no run folder: its run.json is missing, or not what was written",
                    "name a folder that `truing run` made",
                )
            ) from None

    def write(self, run: RunFile) -> None:
        """Replace run.json, whole. Raises RunFailed when the disk does not take it."""
        whole = msgspec.json.encode(msgspec.structs.replace(run, crc32=_crc_of(run)))
        put(self.folder / "run.json", msgspec.json.format(whole, indent=2))

    def mark(self, status: str, reason: str = "") -> None:
        """Set the status of the run, and make this process its owner."""
        self.write(
            msgspec.structs.replace(
                self.read(), status=status, reason=reason, pid=os.getpid(), host=socket.gethostname()
            )
        )

    def events(self, start: int = 0) -> Iterator[tuple[int, Event]]:
        """Line numbers and events from line `start` on, but lines torn by a crash and kinds not known here."""
        if not self._events.exists():
            return
        first, place = self._read if self._read[0] <= start else (0, 0)
        with self._events.open("rb") as lines:
            lines.seek(place)
            for number, line in enumerate(lines, first):
                if not line.endswith(b"\n"):
                    return
                place += len(line)
                self._read = number + 1, place
                if number >= start and isinstance(event := _read(line), Event):
                    yield number, event

    def spoiled(self) -> list[int]:
        """The numbers, from 1, of lines that are not what was written, or were torn by a crash."""
        if not self._events.exists():
            return []
        with self._events.open("rb") as lines:
            return [number for number, line in enumerate(lines, 1) if _read(line) is False]

    def record(self, event: Event) -> None:
        """Append one event. Raises RunFailed when the disk does not take it."""
        try:
            with self._events.open("ab", buffering=0) as file:
                told = events.encode(event)
                line = self._torn + told[:-1] + _SEAL + crc_of(told) + b'"}\n'
                self._torn = b"\n"
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._torn = b""
        except OSError as error:
            raise RunFailed(f"cannot write {self._events}: {error.strerror}") from None

    def count(self) -> int:
        """How many lines the event file has; a torn last line is ended first, so that what follows stands by itself."""
        if not self._events.exists():
            return 0
        data = self._events.read_bytes()
        if data and not data.endswith(b"\n"):
            with self._events.open("ab") as file:
                file.write(b"\n")
        return data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))

    def phase(self, name: str) -> PhaseFolder:
        """The folder of one phase."""
        return PhaseFolder(self.folder / name)


class PhaseFolder:
    """What a phase goes on from, and what it made: a model, or data."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        self.data = folder / "data"
        self._checkpoints = folder / "checkpoints"
        self._best = folder / "best"
        self._batches = folder / "batches.jsonl"

    @property
    def made(self) -> bool:
        """Whether the phase is done."""
        return self.model.exists() or self.data.exists()

    def verify(self) -> None:
        """Raises RunFailed when what the phase made is not what it was."""
        for folder in (self.model, self.data):
            if folder.exists() and (found := corrupt(folder, more=True)):
                raise RunFailed(f"{folder} is not what this run made, remove it to make it anew: {found}")

    def save(self, position: Position, write: Callable[[Path], None], keep: int) -> Path:
        """Take a checkpoint with `write`, then forget all but the newest `keep`."""

        def whole(folder: Path) -> None:
            write(folder)
            (folder / "position.json").write_bytes(msgspec.json.encode(position))
            if position.best:
                link(self._best, folder / "best")
            sum_up(folder)

        path = write_whole(self._checkpoints / f"step-{position.step:06d}", whole)
        for old in self._all()[:-keep]:
            shutil.rmtree(old)
        return path

    def keep_best(self, write: Callable[[Path], None]) -> None:
        """Keep the weights of the best look so far with `write`, in place of those before."""

        def whole(folder: Path) -> None:
            write(folder)
            sum_up(folder)

        write_whole(self._best, whole)

    def best(self) -> Path:
        """Where the best look is kept. Raises RunFailed when it is not whole."""
        if found := corrupt(self._best):
            raise RunFailed(f"the best look is corrupt, and a resume takes an earlier checkpoint: {found}")
        return self._best

    def back_to(self, checkpoint: Path) -> None:
        """Have the best look be that which a checkpoint knew."""
        if (checkpoint / "best").exists():
            write_whole(self._best, lambda folder: link(checkpoint / "best", folder))

    def newest(self) -> tuple[tuple[Path, Position] | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with those after it. Raises RunFailed when there are
        some and none is whole."""
        wrong: list[str] = []
        for path in reversed(self._all()):
            if found := corrupt(path):
                wrong.append(f"the checkpoint {path} is corrupt, and the one before it is used: {found}")
                continue
            return (path, msgspec.json.decode((path / "position.json").read_bytes(), type=Position)), wrong
        if wrong:
            raise RunFailed(f"no checkpoint is whole; remove {self._checkpoints} to begin anew. {wrong[0]}")
        return None, []

    def forget(self) -> None:
        """Remove the checkpoints of a phase that is done, and its best look."""
        shutil.rmtree(self._checkpoints, ignore_errors=True)
        shutil.rmtree(self._best, ignore_errors=True)

    def batches(self) -> int:
        """How many batches of data are written. One that was torn by a crash is taken away. Raises RunFailed."""
        if self._batches.exists():
            whole, end, _ = self._batches.read_bytes().rpartition(b"\n")
            os.truncate(self._batches, len(whole + end))
        return sum(1 for _ in self.written())

    def written(self) -> Iterator[bytes]:
        """The batches of data so far, each a JSON list of its rows. Raises RunFailed for one that is not what was
        written."""
        content = self._batches.read_bytes() if self._batches.exists() else b""
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            crc, _, batch = line.partition(b" ")
            if crc != crc_of(batch):
                told = f"{self._batches}:{number} is not what was written"
                raise RunFailed(f"{told}; remove the file to have all its batches made anew")
            yield batch

    def add(self, batch: bytes) -> None:
        """Write one more batch, a JSON list of its rows. Raises RunFailed when the disk does not take it."""
        try:
            self._batches.parent.mkdir(parents=True, exist_ok=True)
            with self._batches.open("ab") as file:
                file.write(crc_of(batch) + b" " + batch + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunFailed(f"cannot write {self._batches}: {error.strerror}") from None

    def finish(self) -> tuple[Path, int]:
        """Put the rows of all batches into data/groups.jsonl; its path, and how many they are."""
        rows = [bytes(row) for batch in self.written() for row in msgspec.json.decode(batch, type=list[msgspec.Raw])]

        def whole(folder: Path) -> None:
            (folder / GROUPS).write_bytes(b"".join(row + b"\n" for row in rows))
            sum_up(folder)

        write_whole(self.data, whole)
        self._batches.unlink(missing_ok=True)
        return self.data / GROUPS, len(rows)

    def _all(self) -> list[Path]:
        steps = {path.name[5:]: path for path in self._checkpoints.glob("step-*")}
        return [steps[step] for step in sorted(filter(str.isdigit, steps), key=int)]


def _read(line: bytes) -> Event | Literal[False] | None:
    """The event of a line, None if its kind is not known here, False if it is not what was written."""
    told, seal, crc = line.rpartition(_SEAL)
    if line == b"\n":
        return None
    try:
        return events.decode(line) if not seal or crc == crc_of(told + b"}") + b'"}\n' else False
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _crc_of(run: RunFile) -> str:
    return crc_of(msgspec.json.encode(run)).decode()

"""What a run keeps on disk, so that it says what it is and can go on after any end.

    <run>/run.json         name, status, process, versions: written first, replaced whole
    <run>/recipe.toml      the recipe as it was written      resolved.toml   with every default filled in
    <run>/events.jsonl     every event, one line each
    <run>/<phase>/checkpoints/step-000012/    what a phase goes on from      model/   what it made, or
    <run>/<phase>/batches.jsonl               what it has written so far     data/    what it wrote: groups.jsonl
    <run>/<phase>/best/                       the best look so far; every checkpoint has that which it knew

A folder is written under another name, synced, and renamed: it is whole or it is not there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from truing import events
from truing.errors import Problem, RunFailed, UserError
from truing.events import Event
from truing.recipe import Recipe
from truing.until import Mark, Watched

FORMAT = 1
GROUPS = "groups.jsonl"
MEMORY = "loss.json"
"""what a loss remembers: in a checkpoint, and beside the model that was made"""
SUMS = "SHA256SUMS"
"""the checksums of a checkpoint, as `sha256sum -c` reads them"""


class RunFile(msgspec.Struct, kw_only=True, frozen=True):
    """run.json. status: running, finished, failed or interrupted; `running` with a dead process was killed."""

    format: int = FORMAT
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
        journal._put("recipe.toml", recipe.text.encode())
        journal._put("resolved.toml", msgspec.toml.encode(recipe.resolved()))
        journal.write(_run_file(recipe, versions))
        return journal

    def read(self) -> RunFile:
        """run.json as it stands."""
        try:
            return msgspec.json.decode((self.folder / "run.json").read_bytes(), type=RunFile)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            raise UserError(
                Problem(str(self.folder), "this is no run folder", "name a folder that `truing run` made")
            ) from None

    def write(self, run: RunFile) -> None:
        """Replace run.json, whole. Raises RunFailed when the disk does not take it."""
        self._put("run.json", msgspec.json.format(msgspec.json.encode(run), indent=2))

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
                if number < start:
                    continue
                try:
                    event = events.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
                if event is not None:
                    yield number, event

    def record(self, event: Event) -> None:
        """Append one event. Raises RunFailed when the disk does not take it."""
        try:
            with self._events.open("ab", buffering=0) as file:
                line = events.encode(event) + b"\n"
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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

    def _put(self, name: str, content: bytes) -> None:
        waiting = self.folder / f"{name}.new"
        try:
            waiting.write_bytes(content)
            waiting.replace(self.folder / name)
        except OSError as error:
            raise RunFailed(f"cannot write {self.folder / name}: {error.strerror}") from None


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

    def save(self, position: Position, write: Callable[[Path], None], keep: int) -> Path:
        """Take a checkpoint with `write`, then forget all but the newest `keep`."""

        def whole(folder: Path) -> None:
            write(folder)
            (folder / "position.json").write_bytes(msgspec.json.encode(position))
            if position.best:
                _link(self._best, folder / "best")
            _sum(folder)

        path = write_whole(self._checkpoints / f"step-{position.step:06d}", whole)
        for old in self._all()[:-keep]:
            shutil.rmtree(old)
        return path

    def keep_best(self, write: Callable[[Path], None]) -> None:
        """Keep the weights of the best look so far with `write`, in place of those before."""

        def whole(folder: Path) -> None:
            write(folder)
            _sum(folder)

        write_whole(self._best, whole)

    def best(self) -> Path:
        """Where the best look is kept. Raises RunFailed when it is not whole."""
        if found := _corrupt(self._best):
            raise RunFailed(f"the best look is corrupt, and a resume takes an earlier checkpoint: {found}")
        return self._best

    def back_to(self, checkpoint: Path) -> None:
        """Have the best look be that which a checkpoint knew."""
        if (checkpoint / "best").exists():
            write_whole(self._best, lambda folder: _link(checkpoint / "best", folder))

    def newest(self) -> tuple[tuple[Path, Position] | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with those after it. Raises RunFailed when there are
        some and none is whole."""
        wrong: list[str] = []
        for path in reversed(self._all()):
            if found := _corrupt(path):
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
        """How many batches of data are written. One that was torn by a crash is taken away."""
        if not self._batches.exists():
            return 0
        whole, end, _ = self._batches.read_bytes().rpartition(b"\n")
        os.truncate(self._batches, len(whole + end))
        return (whole + end).count(b"\n")

    def add(self, batch: bytes) -> None:
        """Write one more batch, a JSON list of its rows. Raises RunFailed when the disk does not take it."""
        try:
            self._batches.parent.mkdir(parents=True, exist_ok=True)
            with self._batches.open("ab") as file:
                file.write(batch + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunFailed(f"cannot write {self._batches}: {error.strerror}") from None

    def finish(self) -> tuple[Path, int]:
        """Put the rows of all batches into data/groups.jsonl; its path, and how many they are."""
        kept = self._batches.read_bytes().splitlines() if self._batches.exists() else []
        rows = [bytes(row) for line in kept for row in msgspec.json.decode(line, type=list[msgspec.Raw])]
        write_whole(self.data, lambda folder: (folder / GROUPS).write_bytes(b"".join(row + b"\n" for row in rows)))
        self._batches.unlink(missing_ok=True)
        return self.data / GROUPS, len(rows)

    def _all(self) -> list[Path]:
        found = [path for path in self._checkpoints.glob("step-*") if path.name[5:].isdigit()]
        return sorted(found, key=lambda path: int(path.name[5:]))


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


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    """The same files in another folder, either of which may be removed; where links are known they take no space."""

    def one(name: str, other: str) -> None:
        try:
            os.link(name, other)
        except OSError:
            shutil.copy2(name, other)

    shutil.copytree(source, target, copy_function=one, dirs_exist_ok=True)


def _sum(folder: Path) -> None:
    (folder / SUMS).write_text("".join(f"{sum_of(folder / name)}  {name}\n" for name in _files(folder)))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _corrupt(folder: Path) -> str:
    """What is wrong with a checkpoint, "" if its files are those that were written."""
    try:
        sums = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
        if {SUMS, *(name for _, name in sums)} != set(_files(folder)):
            return f"its files are not those in {SUMS}"
        for expected, name in sums:
            if sum_of(folder / name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be checked: {error}"
    return ""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _run_file(recipe: Recipe, versions: dict[str, str]) -> RunFile:
    return RunFile(
        name=recipe.name,
        status="running",
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        pid=os.getpid(),
        host=socket.gethostname(),
        place=os.getcwd(),
        digest=recipe.digest(),
        versions=versions,
    )

"""Several processes of one command, forked off this one: a launcher that imports nothing again."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from truing.cli.app import run as command
from truing.journal import Journal
from truing_model.learner import Learner

SECONDS = 120.0
"""the longest that anything here may take on a busy machine"""


class Launched:
    """So many processes of a command. before: called in each with its rank, first of all."""

    def __init__(
        self, folder: Path, count: int, arguments: Sequence[str], before: Callable[[int], object] = lambda rank: None
    ) -> None:
        self._files = [folder / f"said-{os.urandom(4).hex()}" for _ in range(count)]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        self._told = {**told, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.pids = [self._forked(rank, arguments, before) for rank in range(count)]

    @property
    def said(self) -> list[str]:
        """What each wrote."""
        return [file.read_text(errors="replace") for file in self._files]

    def kill(self, rank: int) -> None:
        """As nobody can prevent."""
        os.kill(self.pids[rank], signal.SIGKILL)

    def until(self, found: Callable[[], Any]) -> None:
        """Wait for something that one of them does. Raises AssertionError if it does not come."""
        late = time.monotonic() + SECONDS
        while not found():
            assert time.monotonic() < late, f"it did not come: {self.said}"
            time.sleep(0.01)

    def ends(self, seconds: float = SECONDS) -> list[int]:
        """The exit status of each. Raises AssertionError, and kills them, if they take longer."""
        until = time.monotonic() + seconds
        found: dict[int, int] = {}
        while len(found) < len(self.pids):
            late = time.monotonic() > until
            for rank in set(range(len(self.pids))) - found.keys():
                if late:
                    self.kill(rank)
                pid, status = os.waitpid(self.pids[rank], 0 if late else os.WNOHANG)
                if pid:
                    found[rank] = os.waitstatus_to_exitcode(status)
            if late:
                raise AssertionError(f"still there after {seconds} s: {found}, {self.said}")
            time.sleep(0.01)
        return [found[rank] for rank in range(len(self.pids))]

    def _forked(self, rank: int, arguments: Sequence[str], before: Callable[[int], object]) -> int:
        self._files[rank].touch()
        with warnings.catch_warnings(action="ignore"):
            pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            said = os.open(self._files[rank], os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            os.environ |= {**self._told, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            warnings.simplefilter("default")
            torch.set_num_threads(1)
            before(rank)
            command(arguments)
            status = 0
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def stop_at(step: int) -> Callable[[int], None]:
    """Processes that a launcher asks to stop after a step, all of them."""

    def prepare(rank: int) -> None:
        move = Learner.move

        def moved(learner: Learner) -> float:
            rate = move(learner)
            if learner.steps == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return rate

        Learner.move = moved

    return prepare


def run_folder(folder: Path) -> Path:
    """The one run that is kept in a folder."""
    (found,) = folder.iterdir()
    return found


def metrics(folder: Path) -> dict[tuple[str, str, int], dict[str, float]]:
    """The numbers of every step and every look of a run, as it came to them last, but for how fast they were."""
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for _, event in Journal(folder).events():
        values: Any = getattr(event, "metrics", None)
        if values:
            kept = {name: value for name, value in values.items() if not name.startswith("speed/")}
            found[type(event).__name__, getattr(event, "phase", ""), getattr(event, "step", 0)] = kept
    return found

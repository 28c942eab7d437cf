"""A disk that does not take everything.

What is wrong with it comes from an audit hook, which Python asks before it opens a file for writing, renames one or
makes a folder. Such a hook cannot be taken back, so there is one for all disks that are open.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import time
from functools import cache
from typing import Any

from truing.events import Event
from truing.run import Run
from truing_faults import menu_places as menu
from truing_faults.chance import KEPT, Chance

_WRITING = os.O_WRONLY | os.O_RDWR
_FEW_BYTES = 16
_ERRORS = {"full": errno.ENOSPC, "readonly": errno.EROFS}


class FaultyDisk:
    """Lies below the folder of a run while it is open."""

    def __init__(self, spec: menu.FaultyDisk, run: Run) -> None:
        self._seconds, self._folder = spec.seconds, f"{run.folder.resolve()}{os.sep}"
        self._chance = Chance(spec, run, "disk")
        self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._own = threading.local()

    async def open(self) -> None:
        """Begin."""
        _OPEN.append(self)
        _listen()

    async def observe(self, event: Event) -> None:
        """It is no affair of a disk what happens."""

    async def close(self) -> None:
        """Be a good disk from now on."""
        _OPEN.remove(self)
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)

    def asked(self, event: str, given: tuple[Any, ...]) -> None:
        """Something is done with a file. Raises OSError for what is not taken."""
        if getattr(self._own, "busy", False):
            return
        self._own.busy = True
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)
            if event != "open" or given[2] & _WRITING:
                self._write(given[0])
        finally:
            self._own.busy = False

    def _write(self, given: object) -> None:
        path = os.path.abspath(str(given))
        if isinstance(given, int) or not path.startswith(self._folder) or os.path.basename(path) == KEPT:
            return
        match what := self._chance.draw():
            case "slow":
                time.sleep(self._seconds)
            case "short":
                size = os.stat(path).st_size if os.path.isfile(path) else 0
                most = size + self._chance.random.randrange(_FEW_BYTES)
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, self._limit[1]))
            case "":
                return
            case _:
                raise OSError(_ERRORS[what], os.strerror(_ERRORS[what]), path)


_OPEN: list[FaultyDisk] = []


@cache
def _listen() -> None:
    def asked(event: str, given: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.mkdir"):
            for disk in _OPEN.copy():
                disk.asked(event, given)

    sys.addaudithook(asked)

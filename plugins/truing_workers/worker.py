"""One process that works for a run, seen from the run: started, asked, ended. Any thread may use it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from truing.errors import RunFailed
from truing_remote.parts import Failed
from truing_workers.wire import Answer, Done, Link, Order, Said, Wants

Waiting = Future[Done | Failed | Wants]
"""What will come of an order."""

_END_SECONDS = 5.0
"""how long it may take to end when it is told to"""
_LAST_LINES = 12
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Died(Exception):
    """The process ended before it answered."""


class Worker:
    """A process. log: what it and its libraries print is added there. memories: files that it sees, too.

    over: set once it has ended. said: events, as lines of the journal, that wait to be published.
    """

    def __init__(self, log: Path, memories: Sequence[int], environment: Mapping[str, str]) -> None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab")
        except OSError as error:
            raise RunFailed(f"cannot write {log}: {error.strerror}") from None
        self._log, self._from = log, log.stat().st_size
        here, there = socket.socketpair()
        with file, there:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "truing_workers.child", *map(str, (there.fileno(), *memories))],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **_QUIET, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
                pass_fds=(there.fileno(), *memories),
            )
        self._link = Link(here)
        self._waiting: dict[int, Waiting] = {}
        self._changing = threading.Lock()
        self._number = 0
        self._reason = ""
        self.over = threading.Event()
        self.said: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._listen, name="listens to a worker", daemon=True).start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def expect(self, number: int = 0) -> tuple[int, Waiting]:
        """The number of an order, and what will come of it: Died, if the process ends first. number: of the order that
        waits on, for something that was wanted."""
        with self._changing:
            self._number += not number
            number = number or self._number
            waiting = Waiting()
            if self.over.is_set():
                waiting.set_exception(Died(self.how()))
            else:
                self._waiting[number] = waiting
            return number, waiting

    def send(self, order: Order) -> None:
        """Give an order."""
        # Whoever listens hears of an end, too, and tells all who wait.
        with suppress(OSError):
            self._link.send(order)

    def kill(self, reason: str) -> None:
        """End it at once."""
        self._reason = self._reason or reason
        self._process.kill()

    def end(self) -> None:
        """Have it end, and wait for that."""
        self._link.leave()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.over.wait()

    def how(self) -> str:
        """How it ended."""
        if self._reason:
            return f"was killed: {self._reason}"
        status = self._process.returncode
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def last_words(self) -> list[str]:
        """The last lines it printed."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]

    def _listen(self) -> None:
        try:
            while (message := self._link.receive()) is not None:
                self._hear(message)
        finally:
            self._bury()

    def _bury(self) -> None:
        """Nothing more is heard of the process: it has ended, or it is of no use."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._process.kill()
        self._process.wait()
        self._link.close()
        with self._changing:
            self.over.set()
            for waiting in self._waiting.values():
                waiting.set_exception(Died(self.how()))
            self._waiting.clear()

    def _hear(self, message: Order | Answer) -> None:
        if isinstance(message, Said):
            self.said.put(message.event)
            return
        assert isinstance(message, Done | Failed | Wants)
        with self._changing:
            self._waiting.pop(message.number).set_result(message)

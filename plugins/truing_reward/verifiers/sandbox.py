"""Processes that what a model wrote is let into: started, asked, ended, and cleaned up after.

A sandbox with namespaces keeps the rest of the machine out of its reach. One with limits alone does not: it stops what
runs for too long or grows too large, and gives no environment away.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

_SCRIPT = Path(__file__).with_name("inside.py")
_START_SECONDS = 120.0
_END_SECONDS = 2.0
_LONGEST = 1 << 20
"""bytes of an answer; who answers at greater length may be no judge any more"""


class Late(Exception):
    """No answer came in time."""


class Ended(Exception):
    """The process ended before it answered."""


class Sandbox:
    """One process that plays a part, with everything it starts. limits: as `isolation.Limits`."""

    def __init__(
        self,
        part: str,
        given: Any,
        limits: dict[str, int],
        namespaces: bool,
        *,
        path: Sequence[str] = (),
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
    ) -> None:
        # Inside of namespaces there is another /tmp, which goes with them.
        self._folder = None if namespaces else tempfile.mkdtemp(prefix="truing-sandbox-")
        orders = {"part": part, "given": given, "limits": limits, "namespaces": namespaces, "path": list(path)}
        self._process = subprocess.Popen(
            # -P, -s and -S beside an environment of our own are what -I is, but for the seed of hashes.
            [sys.executable, "-P", "-s", "-S", "-B", str(_SCRIPT), json.dumps(orders)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env=_environment(self._folder or "/tmp"),
            cwd=self._folder or "/",
            pass_fds=pass_fds,
            start_new_session=True,
            bufsize=0,
        )
        if self._process.stdin:
            os.set_blocking(self._process.stdin.fileno(), False)
        self._read = b""

    def ask(self, question: bytes, seconds: float) -> Any:
        """What it answers, one line of JSON. Raises Late and Ended, after which it is of no more use."""
        until = time.monotonic() + seconds
        assert self._process.stdin
        assert self._process.stdout
        into, out = self._process.stdin.fileno(), self._process.stdout.fileno()
        while question:
            _wait_for(into, select.POLLOUT, until)
            try:
                question = question[os.write(into, question) :]
            except BrokenPipeError:
                raise Ended from None
        while b"\n" not in self._read:
            _wait_for(out, select.POLLIN, until)
            some = os.read(out, 1 << 16)
            if not some or len(self._read) > _LONGEST:
                raise Ended
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def met(self, orders: bytes = b"") -> str:
        """Give it its first orders, and wait until it is ready: "", or why it cannot be."""
        try:
            return self.ask(orders, _START_SECONDS).get("failed", "")
        except (Late, Ended):
            return "it ended, or did not get ready"

    def kill(self) -> None:
        """End the process with all that it started: whoever waits for it hears that it ended. For any thread."""
        # The launcher ends what it watches over when it is told to; if something keeps it from that, it ends too.
        with suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(_END_SECONDS)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Kill it, and leave nothing behind."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
        if self._folder:
            _remove(self._folder)


def refusal(namespaces: bool) -> str:
    """Why no sandbox can be made here; "" where one can."""
    trial = Sandbox("greet", None, {"memory": 512, "disk": 1, "cpu": 5, "processes": 1}, namespaces)
    try:
        return trial.met()
    finally:
        trial.end()


def _wait_for(stream: int, event: int, until: float) -> None:
    """Raises Late when a stream is not ready in time."""
    poll = select.poll()
    poll.register(stream, event)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
        raise Late


class Watch:
    """The sandboxes of one piece of work. They are killed when nobody waits for the work any more."""

    def __init__(self) -> None:
        self._over: list[Sandbox] = []
        self._left = False

    def over(self, sandbox: Sandbox) -> None:
        """Watch over one more."""
        self._over.append(sandbox)
        if self._left:
            sandbox.kill()

    def leave(self) -> None:
        """Nobody waits any more."""
        self._left = True
        for sandbox in list(self._over):
            sandbox.kill()


async def attended(work: Callable[[Watch], T], slots: anyio.CapacityLimiter) -> T:
    """Wait for work in a thread of its own. When cancelled, its sandboxes are killed, and its end is waited for."""
    watch = Watch()
    done: list[T] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not done:
                watch.leave()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        done.append(await anyio.to_thread.run_sync(work, watch, limiter=slots))
        tasks.cancel_scope.cancel()
    return done[0]


def cores() -> int:
    """How many processes can work at a time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHASHSEED") if name in os.environ}
    own = {"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    return {"PYTHONHASHSEED": "0", **own, **kept}


def _remove(folder: str) -> None:
    """Remove a folder whose owner may have locked parts of it."""
    os.chmod(folder, 0o700)
    for place, inner, _ in os.walk(folder):
        for path in (os.path.join(place, name) for name in inner):
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)

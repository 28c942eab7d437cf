"""Which call meets which fault."""

from __future__ import annotations

import os
import random
import signal
import threading

import anyio
import msgspec

from truing.errors import RunFailed
from truing.run import Run
from truing_faults.menu import Drawn

KEPT = "faults.jsonl"


class Met(msgspec.Struct):
    """A fault that was met. call: counted from the start of the process."""

    where: str
    call: int
    what: str


class Chance:
    """Draws. where: what the faults are of. `random`: draws what else there is to draw."""

    def __init__(self, spec: Drawn, run: Run, where: str) -> None:
        self._spec, self._where = spec, where
        self._kept = run.phase_folder / KEPT
        before = self._kept.read_bytes().splitlines() if self._kept.exists() else []
        self._met = sum(msgspec.json.decode(line, type=Met).where == where for line in before)
        self.random = random.Random(run.seed_for("faults", run.phase, where, spec.seed, len(before)))
        self._calls = 0
        self._drawing = threading.Lock()

    def draw(self) -> str:
        """The fault of the next call, "" for none; it is written down before it happens."""
        with self._drawing:
            self._calls += 1
            left = self.random.random()
            spared = self._calls <= self._spec.after or 0 < self._spec.most <= self._met
            for what, share in self._spec.shares().items():
                left -= share
                if left < 0 and not spared:
                    self._met += 1
                    self._keep(Met(self._where, self._calls, what))
                    return what
            return ""

    async def meet(self) -> str:
        """The next call's fault comes to pass; what is wrong with its answer, "" if nothing is. Raises RunFailed."""
        match what := self.draw():
            case "delay":
                await anyio.sleep(self._spec.seconds)
            case "raise":
                raise RunFailed(f"a fault that the recipe asks for: call {self._calls} of the {self._where} raises")
            case "hang":
                await anyio.sleep_forever()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                return what
        return ""

    def _keep(self, met: Met) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        with self._kept.open("ab", buffering=0) as file:
            file.write(msgspec.json.encode(met) + b"\n")

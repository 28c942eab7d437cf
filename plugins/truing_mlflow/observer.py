"""The observer: when to send, when to wait, and what to say when a server is gone.

    open     reach the server, or say in a few seconds why not; make the run
    observe  there is news: send all of it, about once a second          (in a worker thread; training never waits)
    close    send the rest, for no more than 15 s

An observer that heard nothing was opened by `truing track`: closing it sends everything, however long that takes.
"""

from __future__ import annotations

import importlib
import math
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from truing.errors import Problem, UserError
from truing.events import Event, Notice, PhaseEnded, PhaseStarted, RunEnded
from truing.run import Run
from truing_mlflow.ledger import Ledger
from truing_mlflow.plugin import Mlflow

if TYPE_CHECKING:
    from truing_mlflow.gauges import Gauges
    from truing_mlflow.shipper import Shipper

PROBE_SECONDS = 9.0
INTERVAL = 1.0
LIVE_SECONDS = 5.0
CLOSE_SECONDS = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0

_WHERE = '[[observer]] use = "mlflow"'


class MlflowObserver:
    """Tells a run to MLflow while it goes on, and finishes later what could not be told."""

    def __init__(self, options: Mlflow, run: Run) -> None:
        self._options = options
        self._run = run
        self._ledger: Ledger | None = None
        self._shipper: Shipper | None = None
        self._gauges: Gauges | None = None
        self._uri = ""
        self._heard = False
        self._told = False
        self._due = 0.0
        self._pause = 0.0
        """seconds until the next attempt after a failure; 0.0 while all is well"""

    async def open(self) -> None:
        """Reach the server and make the run there. Raises UserError."""
        _installed()
        # Seconds of imports, which no server is to blame for.
        store: Any = await anyio.to_thread.run_sync(importlib.import_module, "truing_mlflow.store")
        shipping: Any = await anyio.to_thread.run_sync(importlib.import_module, "truing_mlflow.shipper")
        self._ledger = ledger = Ledger(self._run.folder)
        store.quiet()
        self._uri = uri = store.address(self._options.tracking_uri, ledger.ids)
        seconds = PROBE_SECONDS if uri.startswith(("http", "databricks", "uc")) else math.inf
        try:
            with anyio.fail_after(seconds):
                client, experiment = await _aside(store.connect, uri, self._options.experiment, ledger.ids)
        except TimeoutError:
            raise store.unanswered(uri, seconds) from None
        shipper = shipping.Shipper(client, experiment, self._options, self._run, ledger)
        with store.answering(uri, ledger.ids):
            await _aside(shipper.begin, uri)
        self._shipper = shipper

    async def observe(self, event: Event) -> None:
        """Send what is new, unless that was done within the last second or the server is left alone for a while."""
        assert self._shipper, "observed before it was opened"
        self._heard = True
        if isinstance(event, RunEnded) or event.number < self._shipper.offset:
            return
        wait = self._due - time.monotonic()
        if wait > 0 and self._pause:
            return
        if wait > 0 and not isinstance(event, PhaseStarted | PhaseEnded):
            await anyio.sleep(wait)
        await self._try(LIVE_SECONDS)

    async def close(self) -> None:
        """Send what is left. Raises UserError for `truing track` when it cannot be sent."""
        if self._shipper is None:
            return
        if not self._heard:
            await self._send_all(self._shipper)
            return
        with anyio.move_on_after(CLOSE_SECONDS):
            await self._try(CLOSE_SECONDS - 1)
            if self._gauges:
                await _aside(self._gauges.stop)
        unsent = self._shipper.unsent()
        if unsent:
            what = f"{unsent} events did not reach MLflow; `truing track {self._run.folder}` sends them"
            self._run.bus.publish(Notice(text=what))

    async def _try(self, seconds: float) -> None:
        """One attempt. Its failure is told once, and the next attempt comes after a pause that grows."""
        assert self._shipper
        try:
            await _aside(self._shipper.ship, time.monotonic() + seconds)
            if self._options.system_metrics and (self._gauges is None or self._pause):
                await _aside(self._measure, self._shipper.run_id)
        except Exception as error:  # whatever the client's transport raises; training goes on without it
            self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
            self._due = time.monotonic() + self._pause
            if not self._told:
                self._told = True
                self._run.bus.publish(Notice(text=_troubled(self._uri, error)))
        else:
            self._pause = 0.0
            self._due = time.monotonic() + INTERVAL

    async def _send_all(self, shipper: Shipper) -> None:
        from truing_mlflow import store

        assert self._ledger
        with store.answering(self._uri, self._ledger.ids):
            await _aside(shipper.ship, math.inf)
            await _aside(shipper.settle)

    def _measure(self, run: str) -> None:
        from truing_mlflow.gauges import Gauges

        if self._gauges:
            self._gauges.stop()
        self._gauges = Gauges(run, self._uri)


def _installed() -> None:
    for package in ("mlflow", "psutil"):
        if find_spec(package) is None:
            mend = 'pip install "truing[mlflow]"'
            raise UserError(Problem(_WHERE, f"{package} is not installed", mend))


def _troubled(uri: str, error: Exception) -> str:
    from truing_mlflow import store

    trouble = f"MLflow at {store.redact(uri)}: {store.reason(error)}"
    return f"{trouble}. Training goes on, and what was not sent is sent when it answers again."


async def _aside(work: Any, *arguments: Any) -> Any:
    """Run what blocks in a thread, and leave it behind if nobody waits any more."""
    return await anyio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)

"""The process itself: builds a component, and does what it is told over the wire until nobody is at the other end.

    python -m truing_workers.child WIRE WEIGHTS REFERENCE

The numbers are of files that the run shares. When it is gone, however it went, the wire ends, and so does the process
within seconds, whatever it is at. Orders are done in their order: batches that were asked for
side by side, and new weights when all that was asked for before is answered. Whoever asked a process that then was told
to let go finds the run's `stop` set, and only they do.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import torch
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from torch import Tensor

from truing.bus import Bus
from truing.errors import Problem, RunFailed, TruingError, UserError, first_cause
from truing.events import Event, encode
from truing.run import Stop, Stopped
from truing_remote import parts
from truing_tensor import columns
from truing_workers import wire
from truing_workers.memory import Memory
from truing_workers.wire import Answer, Ask, Cancel, Done, Link, Reference, Said, Start, Take, Wants

_END_SECONDS = 3.0
"""how long what is under way may take once nobody is there to hear of it"""

ASKED: ContextVar[Stop] = ContextVar("ASKED")
"""The stop of the order on whose behalf something is done."""


class StopOfOrder(Stop):
    """A stop for each order: it is that of whoever looks."""

    def __bool__(self) -> bool:
        return bool(ASKED.get(_NEVER))


_NEVER = Stop()


@dataclass(frozen=True)
class Shared:
    """Weights where the run wrote them."""

    version: int
    origin: str
    memory: Memory
    copy: int
    sheet: wire.Sheet
    wanted: Any
    """called for the reference"""

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor as it lies in shared memory."""
        return self.memory.read(self.copy, self.sheet)

    def reference(self) -> Shared:
        """The weights of the reference, which the run writes when they are first asked for."""
        return self.wanted()

    def verify(self) -> None:
        """Raises RunFailed if they are not what was written."""
        self.memory.verify(self.copy, self.sheet)


class Child:
    """Does what it is told."""

    def __init__(self, link: Link, start: Start, weights: Memory, reference: Memory) -> None:
        self._link = link
        self._memories = weights, reference
        self._stops: dict[int, Stop] = {}
        self._references: queue.Queue[Reference] = queue.Queue()
        self._reference: Reference | None = None
        self._broken: Exception | None = None
        self._run = start.part.run(Bus(keep=self._hand_on), StopOfOrder())

    async def work(self, start: Start) -> None:
        """Build the component, and serve until nobody is at the other end."""
        try:
            self._component: Any = await self._run.on_device(parts.unpacked(start.part.spec).build, self._run)
        except Exception as error:
            self._say(parts.failed(start.number, _cause(error)))
            return
        self._say(Done(start.number))
        send, orders = anyio.create_memory_object_stream[Take | Ask](math.inf)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._in_order, orders)
            await anyio.to_thread.run_sync(self._listen, send)
            tasks.cancel_scope.cancel()

    def _listen(self, orders: MemoryObjectSendStream[Take | Ask]) -> None:
        """Hear what is told until nobody is there any more; then what is under way is not waited for long."""
        while (message := self._link.receive()) is not None:
            match message:
                case Take() | Ask():
                    self._stops[message.number] = Stop()
                    anyio.from_thread.run_sync(orders.send_nowait, message)
                case Cancel():
                    if message.number in self._stops:
                        self._stops[message.number].ask("nobody waits any more")
                case Reference():
                    self._references.put(message)
                case _:
                    raise AssertionError(f"{message} is no order")
        timer = threading.Timer(_END_SECONDS, os._exit, [1])
        timer.daemon = True
        timer.start()
        for stop in list(self._stops.values()):
            stop.ask("nobody is there any more")

    async def _in_order(self, orders: MemoryObjectReceiveStream[Take | Ask]) -> None:
        while True:
            async with anyio.create_task_group() as asked:
                while isinstance(order := await orders.receive(), Ask):
                    asked.start_soon(self._answer, order)
            await self._take(order)

    async def _answer(self, ask: Ask) -> None:
        stop = self._stops[ask.number]
        ASKED.set(stop)
        try:
            if self._broken:
                raise self._broken
            made = await self._run.or_stopped(partial(self._component.generate, columns.batch_of(ask.batch)))
            if made is None:
                raise Stopped
            answer: Answer = Done(ask.number, columns.columns_of(made, frozenset(made)))
        except Exception as error:
            answer = parts.failed(ask.number, _cause(error))
        del self._stops[ask.number]
        await anyio.to_thread.run_sync(self._say, answer)

    async def _take(self, take: Take) -> None:
        """Have the component take weights. If that fails, what is asked for before the next ones fails, too."""
        weights = Shared(
            take.version, take.origin, self._memories[0], take.copy, take.sheet, partial(self._referenced, take)
        )
        try:
            await self._component.sync_weights(weights)
            await self._run.on_device(weights.verify)
            self._broken = None
            answer: Answer = Done(take.number)
        except Exception as error:
            self._broken = _cause(error)
            answer = parts.failed(take.number, self._broken)
        del self._stops[take.number]
        self._say(answer)

    def _referenced(self, take: Take) -> Shared:
        """The reference, asked of the run the first time."""
        self._reference = self._reference or take.reference
        if self._reference is None:
            if not take.first:
                raise RunFailed("the reference was asked for later than with the first weights")
            self._say(Wants(take.number))
            self._reference = self._references.get()
        told = self._reference
        shared = Shared(told.version, told.origin, self._memories[1], 0, told.sheet, lambda: shared)
        shared.verify()
        return shared

    def _hand_on(self, event: Event) -> None:
        self._say(Said(encode(event)))

    def _say(self, answer: Answer) -> None:
        try:
            self._link.send(answer)
        except OSError:
            return


def _cause(error: Exception) -> Exception:
    """What went wrong; what nobody meant to raise is printed."""
    cause = first_cause(error)
    assert isinstance(cause, Exception)
    if not isinstance(cause, TruingError | Stopped):
        traceback.print_exception(cause)
    return cause


def _settle(start: Start) -> None:
    """Keep to the cores and to the threads that it is told. Raises UserError."""
    if start.cores:
        try:
            os.sched_setaffinity(0, start.cores)
        except OSError as error:
            what = f"it cannot keep to the cores {start.cores}: {error.strerror}"
            raise UserError(Problem('[generator] use = "process"', what, "name cores that this machine has")) from None
    torch.set_num_threads(start.part.threads)


def main(number: int, weights: int, reference: int) -> None:
    """Work for the run at the other end of the wire."""
    # The run is told to stop, and says what that means here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link = Link(socket.socket(fileno=number))
    start = link.receive()
    if not isinstance(start, Start):
        return
    try:
        _settle(start)
    except UserError as error:
        link.send(parts.failed(start.number, error))
        return
    child = Child(link, start, Memory(weights, 2), Memory(reference, 1))
    anyio.run(child.work, start)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
    sys.stderr.flush()
    # Threads that are not done would be waited for, and nobody waits for what they do.
    os._exit(0)

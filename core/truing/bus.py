"""Two roads: work is sent, events are published.

Work goes over bounded channels: ordered, typed, with backpressure, ended by closing and never by a sentinel. Events
go to subscribers: publishing never waits, and a slow or broken subscriber costs the run nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import msgspec
from anyio.lowlevel import EventLoopToken
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from truing.events import Event

T = TypeVar("T")
E = TypeVar("E", bound=Event)

LOOP: ContextVar[EventLoopToken | None] = ContextVar("LOOP", default=None)
"""The event loop on whose behalf a thread of our own works; anyio knows that of its threads by itself."""


class Bus:
    """The run's own bus; it belongs to the thread of the event loop.

    start: the number of the first event. keep: called with every event before anybody else sees it, so that what a
    subscriber acts on is already in the journal.
    """

    def __init__(self, start: int = 0, keep: Callable[[Event], object] = lambda event: None) -> None:
        self._number = start
        self._keep = keep
        self._owner = threading.get_ident()
        self._subscribers: list[tuple[tuple[type[Event], ...], MemoryObjectSendStream[Any]]] = []

    def publish(self, event: Event) -> None:
        """Stamp an event and hand it to all who asked for its kind. Never waits; worker threads may call it."""
        if threading.get_ident() != self._owner:
            anyio.from_thread.run_sync(self.publish, event, token=LOOP.get())
            return
        stamped = msgspec.structs.replace(event, number=self._number, time=time.time())
        self._number += 1
        self._keep(stamped)
        for kinds, stream in list(self._subscribers):
            if isinstance(stamped, kinds):
                try:
                    stream.send_nowait(stamped)
                except anyio.BrokenResourceError:
                    stream.close()
                    self._subscribers.remove((kinds, stream))

    def subscribe(self, kind: type[E], *more: type[E]) -> MemoryObjectReceiveStream[E]:
        """A stream of all events of these kinds published from now on; it ends when the bus is closed."""
        send, receive = anyio.create_memory_object_stream[E](math.inf)
        self._subscribers.append(((kind, *more), send))
        return receive

    def channel(self, of: type[T], depth: int = 0) -> tuple[MemoryObjectSendStream[T], MemoryObjectReceiveStream[T]]:
        """A bounded channel for work: a sender waits while `depth` items are under way."""
        return anyio.create_memory_object_stream[T](depth)

    def close(self) -> None:
        """End every subscription once what was published has been read."""
        for _, stream in self._subscribers:
            stream.close()
        self._subscribers.clear()

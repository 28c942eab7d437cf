"""An event loop whose clock is moved by the test: it jumps to the next thing that was to happen, so hours pass at once
and the same delays give the same schedule every time.

Nothing may run in threads meanwhile: `in_one_thread` puts arithmetic and encoding on the loop itself, at the price of a
delay each.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from truing.run import DeviceThread

T = TypeVar("T")


class Jumping(selectors.SelectSelector):
    """Waits for nobody: time passes instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen again"
        self.now += max(0.0, timeout)
        return super().select(0)


class Clock(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Device(DeviceThread):
    """A device whose pieces of work take as long as it is told, one after another, without a thread."""

    def __init__(self, seconds: Callable[[str], float]) -> None:
        self._seconds = seconds
        self._free = anyio.Lock()

    async def run(self, work: Callable[..., T], *args: object, leave: bool = False) -> T:
        async with self._free:
            await anyio.sleep(self._seconds(getattr(work, "__name__", "")))
            return work(*args)


@contextmanager
def in_one_thread() -> Iterator[None]:
    """What would go to a thread of anyio's is done at once."""

    async def at_once(work: Callable[..., T], *args: object, **_: object) -> T:
        return work(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(anyio.to_thread, "run_sync", at_once)
        yield


def run(main: Callable[[], Awaitable[T]], most: float) -> tuple[T, float]:
    """What `main` gives, and how long it took by that clock. Raises TimeoutError after `most` seconds of it."""

    async def limited() -> tuple[T, float]:
        with anyio.fail_after(most):
            return await main(), anyio.current_time()

    with in_one_thread():
        return anyio.run(limited, backend_options={"loop_factory": Clock})

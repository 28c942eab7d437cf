"""An event loop whose clock jumps to the next thing that was to happen, so hours pass at once, and the same delays give
the same schedule every time.

Nothing may run in threads meanwhile, for time would pass without them: `Device` does the work of a run on the loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from truing.run import DeviceThread

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Waits for nobody: time passes instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen again"
        self.now += max(0.0, timeout)
        return super().select(0)


class _Clock(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Device(DeviceThread):
    """A device whose pieces of work take as long as `seconds` says of their name and arguments, one after another."""

    def __init__(self, seconds: Callable[..., float]) -> None:
        self._seconds = seconds
        self.free = anyio.Lock()

    async def run(self, work: Callable[..., T], *args: object, leave: bool = False) -> T:
        async with self.free:
            await anyio.sleep(self._seconds(getattr(work, "__name__", ""), *args))
            return work(*args)

    async def beside(self, work: Callable[..., T], *args: object) -> T:
        return work(*args)


def run(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` gives, by that clock; `anyio.current_time()` is 0 when it begins."""
    return anyio.run(main, backend_options={"loop_factory": _Clock})

"""An event loop whose clock jumps to the next thing that was to happen, so hours pass at once, and the same delays give
the same schedule every time.

Nothing may run in threads meanwhile, for time would pass without them: `Device` does the work of a run on the loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
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
    """A device whose pieces of work take what `takes` lets pass of their name and arguments, one after another."""

    def __init__(self, takes: Callable[..., Awaitable[None]]) -> None:
        self._takes = takes
        self.free = anyio.Lock()

    async def run(self, work: Callable[..., T], *args: object, leave: bool = False) -> T:
        async with self.free:
            await self._takes(getattr(work, "__name__", ""), *args)
            return work(*args)

    async def beside(self, work: Callable[..., T], *args: object) -> T:
        return work(*args)


class Beside:
    """Work of several kinds on one machine. slowed: how many times as long each takes while another goes on."""

    def __init__(self, slowed: Mapping[str, float]) -> None:
        self._slowed = slowed
        self._under_way: Counter[str] = Counter()
        self._changed = anyio.Event()

    async def work(self, kind: str, seconds: float) -> None:
        """Let pass what work of some kind takes that would take so many seconds alone."""
        if kind not in self._slowed:
            await anyio.sleep(seconds)
            return
        self._count(kind, 1)
        try:
            while seconds > _NOTHING:
                speed = 1 / self._slowed[kind] if self._under_way.total() > self._under_way[kind] else 1.0
                began = anyio.current_time()
                with anyio.move_on_after(seconds / speed):
                    await self._changed.wait()
                seconds -= (anyio.current_time() - began) * speed
        finally:
            self._count(kind, -1)

    def _count(self, kind: str, by: int) -> None:
        self._under_way[kind] += by
        self._changed.set()
        self._changed = anyio.Event()


_NOTHING = 1e-9
"""seconds that are rounding"""


def run(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` gives, by that clock; `anyio.current_time()` is 0 when it begins."""
    return anyio.run(main, backend_options={"loop_factory": _Clock})

"""Runs by the clock of `truing simulate`, with an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from truing_simulate import clock

T = TypeVar("T")


class Device(clock.Device):
    """A device whose pieces of work take as long as is told of their name."""

    def __init__(self, seconds: Callable[[str], float]) -> None:
        super().__init__(lambda work, *_: anyio.sleep(seconds(work)))


def run(main: Callable[[], Awaitable[T]], most: float) -> tuple[T, float]:
    """What `main` gives, and how long it took by that clock. Raises TimeoutError after `most` seconds of it."""

    async def limited() -> tuple[T, float]:
        with anyio.fail_after(most):
            return await main(), anyio.current_time()

    return clock.run(limited)

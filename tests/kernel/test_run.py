"""What a component is handed to wait with."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from truing.run import Stopped, gathered


async def _after(seconds: float, value: str) -> str:
    await anyio.sleep(seconds)
    return value


async def _stops() -> str:
    raise Stopped


def test_work_done_side_by_side_comes_back_in_the_order_it_was_given() -> None:
    works = [partial(_after, 0.02, "slow"), partial(_after, 0.0, "fast")]
    assert anyio.run(gathered, works) == ["slow", "fast"]
    assert anyio.run(gathered, []) == []


def test_what_one_of_them_raises_is_raised_as_it_is_and_nobody_waits_for_the_others() -> None:
    async def whole() -> None:
        with anyio.fail_after(5):
            await gathered([partial(_after, 60.0, "never"), _stops])

    with pytest.raises(Stopped):
        anyio.run(whole)

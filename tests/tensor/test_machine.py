"""What is done about the heap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from truing_tensor import machine


def test_freed_memory_is_given_back_where_more_of_it_is_held_than_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    mebi = 2**20
    step = kept = 0
    given_back: list[int] = []

    def let_go() -> None:
        nonlocal kept
        given_back.append(step)
        kept = 0

    monkeypatch.setattr(machine, "let_go_of_freed_memory", let_go)
    monkeypatch.setattr(machine, "resident", lambda: (1000 + kept) * mebi)
    tidy = machine.Tidy()
    # What each step leaves in the heap beyond what was there.
    for more in (400, 0, 90, 20, 300, 60, 30, 0):
        tidy.up()
        kept += more
        step += 1
    # The first step takes 400, so 510 are too much behind the fourth; then one takes 300, and 390 are.
    assert given_back == [0, 4, 7]


def test_a_heap_that_hardly_grows_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held: Iterator[int] = iter(range(10**9, 2 * 10**9, 10**6))
    given_back: list[None] = []
    monkeypatch.setattr(machine, "let_go_of_freed_memory", lambda: given_back.append(None))
    monkeypatch.setattr(machine, "resident", lambda: next(held))
    tidy = machine.Tidy()
    for _ in range(60):
        tidy.up()
    assert len(given_back) == 1

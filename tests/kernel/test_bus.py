"""Two roads: work waits, events never do."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest

from truing.bus import Bus
from truing.events import Event, Notice, PhaseEnded, RunEnded


def in_a_loop(work: Callable[[], Awaitable[None]]) -> None:
    anyio.run(work)


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_publishing_never_waits_for_a_subscriber_that_does_not_read() -> None:
    async def main() -> None:
        bus = Bus()
        stream = bus.subscribe(Notice)
        with anyio.fail_after(5):
            for number in range(5000):
                bus.publish(Notice(text=str(number)))
        bus.close()
        async with stream:
            heard = [event async for event in stream]
        assert texts([*heard]) == [str(number) for number in range(5000)]

    in_a_loop(main)


def test_events_are_numbered_in_order_from_where_the_journal_stands() -> None:
    async def main() -> None:
        kept: list[Event] = []
        bus = Bus(start=7, keep=kept.append)
        for text in "abc":
            bus.publish(Notice(text=text))
        assert [event.number for event in kept] == [7, 8, 9]
        assert all(event.time > 1e9 for event in kept)

    in_a_loop(main)


def test_an_event_is_in_the_journal_before_a_subscriber_can_act_on_it() -> None:
    async def main() -> None:
        waiting: list[int] = []
        bus = Bus(keep=lambda event: waiting.append(stream.statistics().current_buffer_used))
        stream = bus.subscribe(Event)
        bus.publish(Notice(text="a"))
        bus.publish(Notice(text="b"))
        assert waiting == [0, 1]
        assert stream.statistics().current_buffer_used == 2
        bus.close()
        stream.close()

    in_a_loop(main)


def test_an_event_that_could_not_be_kept_reaches_nobody() -> None:
    def full(event: Event) -> None:
        raise OSError("full")

    async def main() -> None:
        bus = Bus(keep=full)
        stream = bus.subscribe(Event)
        with pytest.raises(OSError, match="full"):
            bus.publish(Notice(text="a"))
        assert stream.statistics().current_buffer_used == 0
        bus.close()
        stream.close()

    in_a_loop(main)


def test_a_subscriber_hears_only_the_kinds_it_asked_for() -> None:
    async def main() -> None:
        bus = Bus()
        some, every = bus.subscribe(Notice, PhaseEnded), bus.subscribe(Event)
        for event in (Notice(text="a"), RunEnded(status="finished"), PhaseEnded(phase="", status="finished")):
            bus.publish(event)
        bus.close()
        async with some, every:
            assert [type(event) async for event in some] == [Notice, PhaseEnded]
            assert [type(event) async for event in every] == [Notice, RunEnded, PhaseEnded]

    in_a_loop(main)


def test_a_subscriber_that_went_away_costs_the_others_nothing() -> None:
    async def main() -> None:
        bus = Bus()
        gone, here = bus.subscribe(Event), bus.subscribe(Event)
        bus.publish(Notice(text="a"))
        gone.close()
        bus.publish(Notice(text="b"))
        bus.publish(Notice(text="c"))
        bus.close()
        async with here:
            assert texts([event async for event in here]) == ["a", "b", "c"]

    in_a_loop(main)


def test_what_was_published_before_the_end_is_still_read_after_it() -> None:
    async def main() -> None:
        bus = Bus()
        stream = bus.subscribe(Event)
        bus.publish(Notice(text="last"))
        bus.close()
        bus.publish(Notice(text="too late"))
        async with stream:
            assert texts([event async for event in stream]) == ["last"]

    in_a_loop(main)


def test_a_worker_thread_publishes_through_the_thread_of_the_loop() -> None:
    async def main() -> None:
        threads: list[int] = []
        bus = Bus(keep=lambda event: threads.append(threading.get_ident()))
        stream = bus.subscribe(Notice)
        async with anyio.create_task_group() as tasks:
            for worker in range(4):
                tasks.start_soon(anyio.to_thread.run_sync, shout, bus, worker)
        bus.close()
        async with stream:
            heard = [event async for event in stream]
        assert set(threads) == {threading.get_ident()}
        assert [event.number for event in heard] == list(range(40))
        for worker in range(4):
            assert [text for text in texts([*heard]) if text[0] == str(worker)] == [f"{worker}-{n}" for n in range(10)]

    def shout(bus: Bus, worker: int) -> None:
        for number in range(10):
            bus.publish(Notice(text=f"{worker}-{number}"))

    in_a_loop(main)


def test_work_waits_while_the_channel_is_full() -> None:
    async def main() -> None:
        send, receive = Bus().channel(int, depth=2)
        sent: list[int] = []

        async def feed() -> None:
            async with send:
                for number in range(6):
                    await send.send(number)
                    sent.append(number)

        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(feed)
            await anyio.wait_all_tasks_blocked()
            assert sent == [0, 1]
            assert await receive.receive() == 0
            await anyio.wait_all_tasks_blocked()
            assert sent == [0, 1, 2]
            assert [number async for number in receive] == [1, 2, 3, 4, 5]

    in_a_loop(main)

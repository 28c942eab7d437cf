"""Several servers as one generator: which of them answers, and what becomes of prompts when one goes, makes no odds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import torch

from truing.errors import UserError
from truing.fields import IDS, SEEDS, TOKENS, VERSION, Batch
from truing.testing import check_spec
from truing_generate.plugin import OpenAi, OpenAiPool
from truing_remote import http

from .conftest import Told, asked
from .fake import Asked, FakeServer, Reply
from .samplers import by_completion

PROMPTS = [f"prompt {number}" for number in range(10)]


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.002)


class Some(FakeServer):
    """A server that can go and come back, with the weights it was started with until it reads others."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = self.stuck = False
        self.goes_at = self.sticks_at = 10**9
        self.freed = threading.Event()
        self.answer = self._say

    def come_back(self) -> None:
        self.goes_at, self.gone, self.version = 10**9, False, 0

    def _say(self, asked: Asked) -> Reply | None:
        if asked.path == "/v1/completions":
            self.gone |= asked.number >= self.goes_at
            self.stuck |= asked.number >= self.sticks_at
        if self.stuck:
            self.freed.wait(20)
        if self.gone or self.stuck:
            return Reply(status=0)
        if asked.path == "/collective_rpc":
            self.version = int(asked.body["kwargs"]["weights_path"].rpartition("-")[2])
        return None


@pytest.fixture
def servers() -> Iterator[list[Some]]:
    with Some() as first, Some() as second:
        yield [first, second]
        for server in (first, second):
            server.freed.set()


def built(told: Told, servers: list[Some], **options: Any) -> Any:
    given = {"urls": [server.url for server in servers], "samples": 3, "max_new_tokens": 6, "concurrency": 3}
    return OpenAiPool(**given, check_seconds=0.05, wait_seconds=0.5, **options).build(told.run)


def prompts() -> Batch:
    return asked(*PROMPTS).put(SEEDS, list(range(len(PROMPTS))))


def of_one(told: Told, version: int) -> list[list[int]]:
    """What a single server writes that has the weights of a version."""
    with Some() as server:
        server.version = version
        one = OpenAi(url=server.url, samples=3, max_new_tokens=6).build(told.run)
        return by_completion(anyio.run(one.generate, prompts()))


class Weights:
    version, origin = 7, "nowhere"

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "w", torch.ones(2)


def test_it_keeps_its_promises() -> None:
    check_spec(OpenAiPool, urls=["http://127.0.0.1:8000"])
    problems = list(OpenAiPool(urls=["http://a:1", "http://a:1/v1", "ftp://b"]).problems())
    assert [(fault.option, fault.what.partition(" ")[0]) for fault in problems] == [
        ("urls", '"ftp://b"'),
        ("urls", "two"),
    ]


def test_prompts_are_shared_and_come_back_in_order_as_from_one_server(told: Told, servers: list[Some]) -> None:
    made: Batch = anyio.run(built(told, servers).generate, prompts())
    assert made[IDS] == prompts()[IDS]
    assert by_completion(made) == of_one(told, 0)
    assert all(server.count() >= 6 for server in servers)
    assert sum(server.count() for server in servers) == 30
    assert max(server.most_under_way for server in servers) <= 3


def test_a_server_that_goes_amid_its_work_loses_nothing_and_samples_anew_only_from_the_newest_weights(
    told: Told, servers: list[Some]
) -> None:
    first, second = servers

    def back(asked: Asked) -> Reply | None:
        if first.gone and "is left out" in "".join(told.notices):
            first.come_back()
        return second._say(asked)

    async def go() -> Batch:
        pool = built(told, servers, sync="vllm-disk")
        await pool.sync_weights(Weights())
        first.goes_at, second.answer = 4, back
        made = await pool.generate(prompts())
        with anyio.fail_after(5):
            while "is back" not in "".join(told.notices):
                await pool.generate(prompts())
        again = await pool.generate(prompts())
        assert torch.equal(again[TOKENS], made[TOKENS])
        return made

    made: Batch = anyio.run(go)
    assert by_completion(made) == of_one(told, 7)
    assert set(made[VERSION].tolist()) == {7}
    # It read the weights when they came out, and again after it was gone and before it was asked for anything.
    paths = [path for path in first.paths() if path in ("/collective_rpc", "/v1/completions")]
    assert paths.count("/collective_rpc") >= 2
    assert second.paths().count("/collective_rpc") == 1
    later = paths[paths.index("/collective_rpc", 1) :]
    assert "/v1/completions" in later
    (left, back_again) = [text for text in told.notices if first.url in text and "sent again" not in text]
    assert "is left out, and what it had is asked of the others" in left
    assert back_again == f"{first.url} is back"


def test_a_server_that_hangs_is_left_out_long_before_its_requests_time_out(told: Told, servers: list[Some]) -> None:
    servers[0].sticks_at = 2

    async def go() -> Batch:
        with anyio.fail_after(10):
            return await built(told, servers).generate(prompts())

    assert by_completion(anyio.run(go)) == of_one(told, 0)
    assert "does not say how it is" in "".join(told.notices)


def test_when_none_is_there_the_run_ends_and_names_each(told: Told, servers: list[Some]) -> None:
    servers[0].goes_at = servers[1].goes_at = 3
    with pytest.raises(UserError, match=r"none of 2 servers answers for 0\.5 s") as error:
        anyio.run(built(told, servers).generate, prompts())
    assert all(server.url in str(error.value) for server in servers)


def test_a_refusal_is_of_the_prompt_and_not_of_the_server(told: Told, servers: list[Some]) -> None:
    for server in servers:
        server.answer = lambda asked: Reply({"error": "too long"}, 400) if asked.path == "/v1/completions" else None
    with pytest.raises(UserError, match=r"prompt p.*400 too long"):
        anyio.run(built(told, servers).generate, prompts())

"""Completions from a server: what is asked, what is believed, and what happens when it goes wrong."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

from truing.errors import RunFailed, TruingError, UserError
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    PROMPTS,
    SAMPLES,
    SCORES,
    SEQ,
    TEMPERATURE,
    TOKENS,
    VERSION,
    Batch,
)
from truing.stage import Generator
from truing.testing import check_spec
from truing_generate.plugin import OpenAi
from truing_remote import http

from .conftest import Told, asked
from .fake import END, Asked, FakeServer, Reply, completion, written

KEY = "sk-very-secret-7391"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.002)
    monkeypatch.delenv("TRUING_KEY", raising=False)


def built(told: Told, server: FakeServer, **options: Any) -> Generator:
    given = {"url": server.url, "samples": 3, "max_new_tokens": 6, **options}
    return OpenAi(**given).build(told.run)


def generated(told: Told, server: FakeServer, batch: Batch | None = None, **options: Any) -> Batch:
    generator = built(told, server, **options)
    return anyio.run(generator.generate, batch or asked("one", "two"))


def with_deadline(work: Callable[[], Awaitable[None]]) -> None:
    """Run something that might wait for ever."""

    async def limited() -> None:
        with anyio.fail_after(9):
            await work()

    anyio.run(limited)


def completions_fail(reply: Reply, times: int = 10**9) -> Any:
    """An answer to the first so many requests for completions."""
    return lambda request: reply if request.path == "/v1/completions" and request.number < times else None


# --- what is asked and what comes back --------------------------------------------------------------------------------


def test_it_keeps_its_promises() -> None:
    check_spec(OpenAi)
    check_spec(OpenAi, temperature=0.7)
    check_spec(OpenAi, tokens="text", tokenizer="somewhere")


def test_token_ids_go_out_and_come_back_with_their_log_probabilities(told: Told, server: FakeServer) -> None:
    batch = generated(told, server)
    assert batch[GROUP].tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(body["prompt"] for body in server.bodies()) == sorted([[*map(ord, "one")], [*map(ord, "two")]] * 3)
    for seq, group in enumerate(batch[GROUP].tolist()):
        seed = told.run.seed_for("sample", f"p{group}", 0, seq % 3)
        tokens, logprobs = written([ord(letter) for letter in batch[PROMPTS][group]], seed, 6)
        mine = batch[SEQ] == seq
        assert batch[TOKENS][mine].tolist() == tokens
        assert batch[LOGPROBS_OLD][mine].tolist() == pytest.approx(logprobs)
        assert batch[FINISH][seq] == ("end" if tokens[-1] == END else "length")
        assert batch[COMPLETIONS][seq] == "".join(map(chr, tokens)).removesuffix(chr(END))
    assert batch[VERSION].tolist() == [0] * 6
    assert torch.equal(batch[LOGPROBS_OLD], batch[LOGPROBS_SAMPLED])
    assert told.notices == []


def test_nothing_is_left_to_the_defaults_of_a_server(told: Told, server: FakeServer) -> None:
    generated(told, server, temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, stop=["\n"], samples=1)
    body = server.bodies()[0]
    assert {name: body[name] for name in ("temperature", "top_k", "top_p", "min_p", "stop", "max_tokens")} == {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "stop": ["\n"],
        "max_tokens": 6,
    }
    assert (body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (1, 0, 0)
    assert (body["model"], body["return_token_ids"], body["logprobs"]) == ("tiny", True, 0)


def test_top_k_of_0_is_sent_as_all_servers_take_it(told: Told, server: FakeServer) -> None:
    generated(told, server)
    assert {body["top_k"] for body in server.bodies()} == {-1}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.1]),
    logprobs=st.sampled_from(["raw_logprobs", "processed_logprobs", "none"]),
)
def test_what_is_promised_is_what_is_given_and_no_log_probability_is_made_up(
    tmp_path: Path, server: FakeServer, **options: Any
) -> None:
    spec = OpenAi(url=server.url, samples=2, max_new_tokens=4, **options)
    if list(spec.problems()):
        assert options["temperature"] == 0
        assert options["logprobs"] == "processed_logprobs"
        return
    before = asked("ab")
    after = anyio.run(spec.build(Told(tmp_path).run).generate, before)
    assert set(after) - set(before) == spec.provides()
    both = options["temperature"] == 1 and not options["top_k"] and options["top_p"] == 1 and not options["min_p"]
    some = options["logprobs"] != "none"
    assert (LOGPROBS_OLD in after) == (some and (both or options["logprobs"] == "raw_logprobs"))
    assert (LOGPROBS_SAMPLED in after) == (some and (both or options["logprobs"] == "processed_logprobs"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.integers(1, 4),
    prompts=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4),
    waits=st.lists(st.integers(0, 6), min_size=1, max_size=5),
)
def test_groups_stay_in_order_whatever_the_order_of_the_answers(
    tmp_path: Path, server: FakeServer, samples: int, prompts: list[str], waits: list[int]
) -> None:
    def slowly(request: Asked) -> None:
        if request.body:
            time.sleep(waits[request.number % len(waits)] / 1000)

    server.answer = slowly
    told = Told(tmp_path)
    batch = generated(told, server, asked(*prompts), samples=samples)
    assert batch[GROUP].tolist() == [group for group in range(len(prompts)) for _ in range(samples)]
    expected = [
        token
        for group, prompt in enumerate(prompts)
        for number in range(samples)
        for token in written(list(map(ord, prompt)), told.run.seed_for("sample", f"p{group}", 0, number), 6)[0]
    ]
    assert batch[TOKENS].tolist() == expected


def test_the_same_prompt_gets_the_same_samples_whatever_is_asked_beside_it(tmp_path: Path, server: FakeServer) -> None:
    beside = generated(Told(tmp_path), server, asked("x", "one", ids=["x", "a"]))
    alone = generated(Told(tmp_path), server, asked("one", ids=["a"]))
    assert beside[COMPLETIONS][3:] == alone[COMPLETIONS]
    other = generated(Told(tmp_path, seed=1), server, asked("one", ids=["a"]))
    assert other[COMPLETIONS] != alone[COMPLETIONS]


def test_a_prompt_that_is_asked_again_gets_other_samples(told: Told, server: FakeServer) -> None:
    generator = built(told, server)
    first, second = (anyio.run(generator.generate, asked("one")) for _ in range(2))
    assert first[COMPLETIONS] != second[COMPLETIONS]
    assert len({body["seed"] for body in server.bodies()}) == 6


def test_completions_that_came_with_a_prompt_are_replaced(told: Told, server: FakeServer) -> None:
    demonstrated = asked("one").put_all({COMPLETIONS: ["1"], GROUP: torch.tensor([0]), SCORES: torch.tensor([1.0])})
    batch = generated(told, server, demonstrated)
    assert SCORES not in batch
    assert batch[IDS] == ["p0"]
    assert len(batch[COMPLETIONS]) == 3


@pytest.mark.parametrize(
    ("named", "finish"),
    [
        ({"stop_reason": None}, "end"),
        ({"stop_reason": 7}, "end"),
        ({"stop_reason": "###"}, "stop"),
        ({"matched_stop": "###"}, "stop"),
        ({"matched_stop": 7}, "end"),
    ],
    ids=str,
)
def test_a_stop_string_is_told_from_an_end_token(
    told: Told, server: FakeServer, named: dict[str, Any], finish: str
) -> None:
    def stopped(request: Asked) -> Reply | None:
        if request.path != "/v1/completions":
            return None
        answer = completion(request)
        choice = answer["choices"][0]
        del choice["stop_reason"]
        choice |= {"finish_reason": "stop", **named}
        return Reply(answer)

    server.answer = stopped
    assert set(generated(told, server, stop=["###"])[FINISH]) == {finish}


def test_the_only_model_of_a_server_is_taken_and_one_of_several_must_be_named(told: Told, server: FakeServer) -> None:
    server.models = ["one", "two"]
    with pytest.raises(UserError, match=r"serves 2 models\n.*set model to one of: one, two"):
        generated(told, server)
    generated(told, server, model="two")
    assert {body["model"] for body in server.bodies()} == {"two"}
    assert server.count("/v1/models") == 1


def test_a_server_that_does_not_sample_is_noticed(told: Told, server: FakeServer) -> None:
    def always(request: Asked) -> Reply | None:
        same = request._replace(body={**request.body, "seed": 1}) if request.path == "/v1/completions" else None
        return Reply(completion(same)) if same else None

    server.answer = always
    generator = built(told, server)
    for _ in range(2):
        anyio.run(generator.generate, asked("one", "two"))
    assert told.notices == [f"{server.url}: all completions of each prompt are the same: it may not sample at all"]
    other = Told(told.run.folder)
    generated(other, server, temperature=0.0)
    generated(other, server, samples=1)
    assert other.notices == []


def test_a_batch_may_ask_for_other_samples_at_another_temperature(told: Told, server: FakeServer) -> None:
    batch = generated(told, server, asked("one", "two").put_all({SAMPLES: 2, TEMPERATURE: 0.25}))
    assert batch[GROUP].tolist() == [0, 0, 1, 1]
    assert {body["temperature"] for body in server.bodies()} == {0.25}


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_a_request_is_sent_again_when_that_can_help(told: Told, server: FakeServer, status: int) -> None:
    server.answer = completions_fail(Reply({"error": {"message": "busy"}}, status), times=2)
    batch = generated(told, server, concurrency=1)
    assert len(batch[COMPLETIONS]) == 6
    assert server.count() == 8
    assert [notice for notice in told.notices if "2 requests were sent again" in notice] == told.notices
    assert len(told.notices) == 1
    if status:
        assert f"{status} busy" in told.notices[0]


def test_patience_ends_and_says_why(told: Told, server: FakeServer) -> None:
    server.answer = completions_fail(Reply({"error": {"message": "out of memory"}}, 503))
    with pytest.raises(RunFailed, match="/v1/completions: 503 out of memory, asked 3 times"):
        generated(told, server, asked("one"), samples=1, retries=2)
    assert server.count() == 3


def test_a_server_that_asks_for_a_pause_gets_it(told: Told, server: FakeServer) -> None:
    server.answer = completions_fail(Reply({}, 429, {"retry-after": "0.3"}), times=1)
    generated(told, server, asked("one"), samples=1)
    first, second = [request.time for request in server.asked if request.path == "/v1/completions"]
    assert 0.3 <= second - first < 5


def test_a_pause_longer_than_the_timeout_ends_the_run(told: Told, server: FakeServer) -> None:
    server.answer = completions_fail(Reply({}, 429, {"retry-after": "3600"}))
    with pytest.raises(RunFailed, match="asks for a pause of 3600 s; timeout is 30 s"):
        generated(told, server, timeout=30.0)


@given(st.integers(-1000, 10_000))
def test_a_pause_may_be_asked_for_by_number_or_by_date(seconds: int) -> None:
    assert http._retry_after(str(seconds)) == max(0, seconds)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert http._retry_after(date) == pytest.approx(max(0, seconds), abs=2)
    assert http._retry_after("soon") == http._retry_after("") == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_are_under_way_as_allowed_and_no_more(
    told: Told, server: FakeServer, concurrency: int
) -> None:
    together = threading.Barrier(concurrency)

    def answer(request: Asked) -> None:
        if request.path == "/v1/completions":
            if request.number < concurrency:
                together.wait(10)
            time.sleep(0.01)

    server.answer = answer
    generator = built(told, server, concurrency=concurrency)

    async def twice() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generator.generate, asked("one", "two"))
            tasks.start_soon(generator.generate, asked("three", "four"))

    anyio.run(twice)
    assert server.count() == 12
    assert server.most_under_way == concurrency


def test_a_request_that_waited_for_a_place_is_of_the_weights_it_was_sent_to(told: Told, server: FakeServer) -> None:
    generator: Any = built(told, server, concurrency=1)
    ask = generator._exact

    async def renewed(*given: Any) -> Any:
        answer = await ask(*given)
        generator._version = 1
        return answer

    generator._exact = renewed
    assert anyio.run(generator.generate, asked("one"))[VERSION].tolist() == [0, 1, 1]


def test_an_answer_that_takes_too_long_is_given_up_with_a_reason(told: Told, server: FakeServer) -> None:
    server.answer = lambda request: time.sleep(0.5 if request.body else 0)
    with pytest.raises(RunFailed, match=r"no answer in 0\.1 s: raise timeout, lower concurrency"):
        generated(told, server, asked("one"), timeout=0.1)


def test_cancelling_ends_the_requests_under_way_and_sends_no_more(told: Told, server: FakeServer) -> None:
    release = threading.Event()
    server.answer = lambda request: release.wait(10) and None if request.body else None
    generator = built(told, server, concurrency=2)

    async def until_two_are_asked() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generator.generate, asked("one", "two"))
            while server.count() < 2:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    with_deadline(until_two_are_asked)
    release.set()
    for _ in range(200):
        if server.left == 2:
            break
        time.sleep(0.02)
    assert server.left == server.count() == 2


def test_one_refusal_ends_all_other_requests(told: Told, server: FakeServer) -> None:
    def answer(request: Asked) -> Reply | None:
        if request.path == "/v1/completions" and request.number == 2:
            return Reply({"error": {"message": "too long"}}, 400)
        time.sleep(0.05)
        return None

    server.answer = answer
    with pytest.raises(UserError, match=r"prompt p\d: .*400 too long"):
        generated(told, server, samples=50, concurrency=4)
    assert server.count() < 20


# --- answers that are none --------------------------------------------------------------------------------------------


def changed(**changes: Any) -> Any:
    """The usual answer with something else in its choice."""

    def answer(request: Asked) -> Reply | None:
        if request.path != "/v1/completions":
            return None
        usual = completion(request)
        choice = usual["choices"][0] | {"token_ids": [97, 98], "logprobs": {"token_logprobs": [-1.0, -2.0]}}
        return Reply(usual | {"choices": [choice | changes]})

    return answer


def lps(*values: Any) -> dict[str, Any]:
    return {"logprobs": {"token_logprobs": list(values)}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_ids": []}, "0 tokens where 1 to 6 were asked for"),
        ({"token_ids": [97] * 7, **lps(*[-1.0] * 7)}, "7 tokens where 1 to 6"),
        ({"token_ids": [97, -1]}, "the token id -1"),
        ({"token_ids": ["a"]}, "Expected `int`, got `str`"),
        (lps(-1.0), "1 log-probabilities for 2 tokens"),
        (lps(-1.0, math.nan), "the log-probability nan for token 1"),
        (lps(-math.inf, -1.0), "the log-probability -inf for token 0"),
        (lps(None, -1.0), "the log-probability None for token 0"),
        (lps(-1.0, 0.5), "the log-probability 0.5 for token 1"),
        (lps("low", -1.0), "got `str`"),
        ({"finish_reason": "abort"}, "for the reason 'abort'"),
        ({"finish_reason": None}, "for the reason None"),
        ({"text": None}, "no text"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_an_answer_that_cannot_be_is_an_error(
    told: Told, server: FakeServer, changes: dict[str, Any], said: str
) -> None:
    server.answer = changed(**changes)
    with pytest.raises(RunFailed) as failed:
        generated(told, server)
    assert said in str(failed.value)
    assert server.url in str(failed.value)


@pytest.mark.parametrize(
    ("changes", "said", "mend"),
    [
        ({"token_ids": None}, "returns no token ids", 'tokens = "text"'),
        ({"logprobs": None}, "returns no log-probabilities", 'logprobs = "none"'),
        ({"prompt_token_ids": [1, 2]}, "read 2 tokens, and not the 3 of the prompt", "turn off"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_a_server_of_another_kind_is_told_with_a_mend(
    told: Told, server: FakeServer, changes: dict[str, Any], said: str, mend: str
) -> None:
    server.answer = changed(**changes)
    with pytest.raises(UserError) as told_so:
        generated(told, server)
    (problem,) = told_so.value.problems
    assert said in problem.what
    assert server.url in problem.what
    assert mend in problem.mend


def test_logprobs_that_nobody_asked_for_are_not_needed(told: Told, server: FakeServer) -> None:
    server.answer = changed(logprobs=None)
    assert LOGPROBS_OLD not in generated(told, server, logprobs="none")
    assert all("logprobs" not in body for body in server.bodies())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(content=b"<html>hello</html>"),
        Reply(content=b""),
        Reply([1, 2]),
        Reply({"choices": []}),
        Reply({"choices": [{}, {}]}),
        Reply({"choices": "none"}),
    ],
    ids=str,
)
def test_an_answer_of_another_protocol_is_an_error(told: Told, server: FakeServer, reply: Reply) -> None:
    server.answer = completions_fail(reply)
    with pytest.raises(RunFailed, match=server.url):
        generated(told, server)


# --- refusals and keys ------------------------------------------------------------------------------------------------


def test_no_server_is_told_at_once_with_the_address_and_a_mend(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 10)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no server answers at http://127.0.0.1:9(?s:.*)start the server"):
        anyio.run(OpenAi(url="http://127.0.0.1:9", retries=5).build(told.run).generate, asked("one"))
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("status", "mend"), [(400, ""), (401, "key_env"), (403, "key_env"), (404, "url"), (301, "url")]
)
def test_a_refusal_is_told_in_the_words_of_the_server(told: Told, server: FakeServer, status: int, mend: str) -> None:
    server.answer = lambda request: Reply({"error": {"message": "no,\nnot you"}}, status)
    with pytest.raises(UserError) as refused:
        generated(told, server)
    (problem,) = refused.value.problems
    assert f"{server.url}/v1/models refuses: {status} no, not you" in problem.what
    assert mend in problem.mend
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [200, 401, 429, 400])
def test_a_key_is_sent_and_never_said(
    told: Told, server: FakeServer, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRUING_KEY", KEY + "\n")
    server.answer = lambda request: Reply({"error": f"bad key {KEY}"}, status) if status != 200 else None
    said = ""
    try:
        generated(told, server, key_env="TRUING_KEY", retries=1)
    except TruingError as error:
        said = f"{error!r} {error} {error.__cause__!r}"
        assert "bad key (hidden)" in said
    assert {request.headers["authorization"] for request in server.asked} == {f"Bearer {KEY}"}
    assert KEY not in said + "".join(map(repr, told.events)) + "".join(capfd.readouterr())


@pytest.mark.parametrize("value", ["", "  ", "two words", "schlüssel", "new\nline"])
def test_a_variable_that_holds_no_key_is_told_without_its_value(
    told: Told, server: FakeServer, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUING_KEY", value)
    with pytest.raises(UserError, match="TRUING_KEY") as refused:
        built(told, server, key_env="TRUING_KEY")
    assert not value.strip() or value not in str(refused.value)


def test_no_key_is_sent_unless_one_is_named(told: Told, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    generated(told, server)
    assert all("authorization" not in request.headers for request in server.asked)


def test_this_machine_is_not_reached_through_a_proxy(
    told: Told, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(generated(told, server)[COMPLETIONS]) == 6


def faults(**options: Any) -> str:
    return "\n".join(f"{fault.option}: {fault.what} | {fault.mend}" for fault in OpenAi(**options).problems())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, 'url: "localhost:8000" is no address of a server'),
        ({"url": "http://"}, "no address"),
        ({"url": "http://host:port"}, "no address"),
        ({"url": "http://[broken"}, "no address"),
        ({"url": "http://me:pass@host"}, "a password in a recipe"),
        ({"url": "http://host?key=1"}, "ends before ? and #"),
        (
            {"url": "http://gpu.example.org", "key_env": "K"},
            "the key would go to gpu.example.org in the clear | use https",
        ),
        ({"url": "http://10.0.0.7:8000", "key_env": "K"}, "in the clear"),
        ({"key_env": "sk-123"}, "key_env: this is no name of an environment variable"),
        ({"tokens": "text"}, "no tokenizer is named"),
        ({"tokenizer": "here"}, "with exact tokens nothing is encoded anew"),
        ({"temperature": 0.0, "logprobs": "processed_logprobs"}, "logprobs: at temperature 0"),
        ({"sync_folder": "here"}, 'sync_folder: nothing is written there: sync is none | set sync = "vllm-disk"'),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_told_before_anything_is_asked(options: dict[str, Any], said: str) -> None:
    told = faults(**options)
    assert said in told
    assert "pass@" not in told
    assert "sk-123" not in told


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "http://localhost:8000/v1/", "key_env": "K"},
        {"url": "http://[::1]:8000", "key_env": "K"},
        {"url": "https://gpu.example.org/v1", "key_env": "K"},
        {"url": "http://gpu.example.org:8000"},
    ],
    ids=str,
)
def test_options_that_can_be_are_not_complained_of(options: dict[str, Any]) -> None:
    assert faults(**options) == ""


def test_an_address_may_end_in_v1(told: Told, server: FakeServer) -> None:
    generated(told, server, url=server.url + "/v1/")
    assert server.paths()[0] == "/v1/models"


# --- weights ----------------------------------------------------------------------------------------------------------


class Some:
    """Weights of a version; `head` is tied to `embed`."""

    origin = ""

    def __init__(self, version: int) -> None:
        self.version = version
        self.embed = torch.full((4, 8), float(version))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "embed.weight", self.embed
        # Nobody else holds this one: the next may lie where it lay.
        for number in range(6):
            yield f"layer.{number}.weight", torch.full((4, 8), 10.0 * self.version + number).t()
        yield "head.weight", self.embed


def on_disk(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


SYNC = ["/pause?mode=keep", "/collective_rpc", "/reset_prefix_cache?reset_running_requests=true", "/resume"]


def test_weights_go_to_the_server_between_pause_and_resume(told: Told, server: FakeServer, tmp_path: Path) -> None:
    read: list[dict[str, Tensor]] = []

    def reload(request: Asked) -> None:
        if request.path == "/collective_rpc":
            assert request.body["method"] == "reload_weights"
            read.append(on_disk(Path(request.body["kwargs"]["weights_path"])))
            server.version += 1

    server.answer = reload
    generator = built(told, server, sync="vllm-disk", sync_folder=str(tmp_path / "shared"))

    async def steps() -> list[Batch]:
        made = []
        for version in (1, 2):
            await generator.sync_weights(Some(version))
            made.append(await generator.generate(asked("one")))
        return made

    first, second = anyio.run(steps)
    assert server.paths()[:4] == SYNC
    assert [sorted(some) for some in read] == [["embed.weight", *(f"layer.{number}.weight" for number in range(6))]] * 2
    assert [some["embed.weight"].unique().tolist() for some in read] == [[1.0], [2.0]]
    assert [read[1][f"layer.{number}.weight"].unique().item() for number in range(6)] == [20 + n for n in range(6)]
    assert first[VERSION].tolist() == [1] * 3
    assert second[VERSION].tolist() == [2] * 3
    assert first[COMPLETIONS] != second[COMPLETIONS]
    assert [path.name for path in (tmp_path / "shared" / told.run.folder.name).iterdir()] == ["version-2"]


def test_large_weights_are_split_and_indexed(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from truing_generate import disk

    monkeypatch.setattr(disk, "FILE_BYTES", 200)
    folder = disk.write(Some(3), tmp_path)
    assert folder == tmp_path / "version-3"
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    # A tie that crosses files is written twice: nothing is lost.
    assert set(index) == set(on_disk(folder)) >= {"embed.weight", *(f"layer.{number}.weight" for number in range(6))}
    assert set(index.values()) == {path.name for path in folder.glob("*.safetensors")}
    assert len(set(index.values())) > 1
    assert [on_disk(folder)[f"layer.{n}.weight"].unique().item() for n in range(6)] == [30 + n for n in range(6)]


@pytest.mark.parametrize("broken", range(3))
def test_a_server_is_resumed_though_the_reload_failed(told: Told, server: FakeServer, broken: int) -> None:
    server.answer = lambda request: Reply({"error": "no such weights"}, 500) if request.path == SYNC[broken] else None
    generator = built(told, server, sync="vllm-disk", retries=0)
    with pytest.raises(RunFailed, match="500 no such weights"):
        anyio.run(generator.sync_weights, Some(1))
    assert server.paths() == [*SYNC[: broken + 1], "/resume"]
    server.answer = lambda request: None
    assert anyio.run(generator.generate, asked("one"))[VERSION].tolist() == [0] * 3


def test_a_reload_is_not_tried_twice(told: Told, server: FakeServer) -> None:
    server.answer = lambda request: Reply({}, 500) if request.path == "/collective_rpc" else None
    with pytest.raises(RunFailed):
        anyio.run(built(told, server, sync="vllm-disk", retries=5).sync_weights, Some(1))
    assert server.count("/collective_rpc") == 1


def test_a_server_is_resumed_though_the_run_was_cancelled(told: Told, server: FakeServer) -> None:
    release = threading.Event()
    server.answer = lambda request: release.wait(10) and None if request.path == "/collective_rpc" else None
    generator = built(told, server, sync="vllm-disk")

    async def until_it_reloads() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generator.sync_weights, Some(1))
            while not server.count("/collective_rpc"):
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    with_deadline(until_it_reloads)
    release.set()
    assert server.paths() == [*SYNC[:2], "/resume"]


def test_a_cache_that_stays_is_an_error(told: Told, server: FakeServer) -> None:
    server.answer = lambda request: Reply({"success": False}) if request.path.startswith("/reset") else None
    with pytest.raises(RunFailed, match="keeps what it computed under the old weights"):
        anyio.run(built(told, server, sync="vllm-disk").sync_weights, Some(1))
    assert server.paths()[-1] == "/resume"


def test_a_server_that_is_not_in_development_mode_is_told_with_the_mend(told: Told, server: FakeServer) -> None:
    server.answer = lambda request: Reply({"detail": "Not Found"}, 404)
    with pytest.raises(UserError, match=r"/pause\?mode=keep refuses: 404 Not Found\n.*VLLM_SERVER_DEV_MODE=1"):
        anyio.run(built(told, server, sync="vllm-disk").sync_weights, Some(1))
    assert any("may still be paused" in notice for notice in told.notices)


def test_a_key_that_is_refused_is_not_taken_for_another_mode(told: Told, server: FakeServer) -> None:
    server.answer = lambda request: Reply({"error": "no"}, 401)
    with pytest.raises(UserError, match=r"/pause\?mode=keep refuses: 401 no\n.*key_env"):
        anyio.run(built(told, server, sync="vllm-disk").sync_weights, Some(1))


def test_weights_can_change_though_every_place_is_taken_by_a_frozen_request(told: Told, server: FakeServer) -> None:
    resumed = threading.Event()

    def answer(request: Asked) -> None:
        if request.path == "/resume":
            resumed.set()
        elif request.path == "/v1/completions":
            assert resumed.wait(10)

    server.answer = answer
    generator = built(told, server, sync="vllm-disk", concurrency=1)

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generator.generate, asked("one", "two"))
            while not server.count():
                await anyio.sleep(0.01)
            await generator.sync_weights(Some(1))

    with_deadline(both)


def test_a_server_that_keeps_its_model_says_so_once(told: Told, server: FakeServer) -> None:
    generator = built(told, server)

    async def steps() -> Batch:
        await generator.sync_weights(Some(1))
        await generator.sync_weights(Some(2))
        return await generator.generate(asked("one"))

    assert anyio.run(steps)[VERSION].tolist() == [0] * 3
    assert told.notices == [f'{server.url}: the server keeps the model it has: sync = "none"']
    assert set(server.paths()) == {"/v1/models", "/v1/completions"}


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    from truing_model.scratch import byte_tokenizer

    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def said(text: str, finish: str = "stop", **more: Any) -> Any:
    def answer(request: Asked) -> Reply | None:
        if request.path == "/v1/completions":
            return Reply({"choices": [{"text": text, "finish_reason": finish, **more}]})
        if request.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": text}
            return Reply({"choices": [{"message": message, "finish_reason": finish, **more}]})
        return None

    return answer


def test_text_is_encoded_anew_and_that_is_said(told: Told, server: FakeServer, tokenizer: str) -> None:
    server.answer = said("ab")
    batch = generated(told, server, tokens="text", tokenizer=tokenizer)
    assert batch[TOKENS].tolist() == [64, 65, 256] * 6
    assert set(batch[FINISH]) == {"end"}
    assert LOGPROBS_OLD not in batch
    assert LOGPROBS_SAMPLED not in batch
    assert "encoded anew" in told.notices[0]
    assert {body["prompt"] for body in server.bodies()} == {"one", "two"}
    assert all(
        set(body) == {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"} for body in server.bodies()
    )


def test_the_turns_of_a_chat_are_laid_out_by_the_server(told: Told, server: FakeServer, tokenizer: str) -> None:
    server.answer = said("ab", "length")
    turns = [{"role": "user", "content": "hello"}]
    batch = generated(told, server, asked("x").put(PROMPTS, [turns]), tokens="text", tokenizer=tokenizer)
    assert server.bodies("/v1/chat/completions")[0]["messages"] == turns
    assert batch[TOKENS].tolist() == [64, 65] * 3
    assert set(batch[FINISH]) == {"length"}


def test_a_stop_string_is_among_the_tokens_and_not_in_the_text(told: Told, server: FakeServer, tokenizer: str) -> None:
    server.answer = said("ab", stop_reason="c")
    batch = generated(told, server, asked("x"), tokens="text", tokenizer=tokenizer, stop=["c"])
    assert batch[COMPLETIONS] == ["ab"] * 3
    assert batch[TOKENS].tolist() == [64, 65, 66] * 3
    assert set(batch[FINISH]) == {"stop"}


def test_what_ended_a_completion_is_not_guessed(told: Told, server: FakeServer, tokenizer: str) -> None:
    server.answer = said("ab")
    with pytest.raises(UserError, match="does not say whether a stop string or the end token"):
        generated(told, server, tokens="text", tokenizer=tokenizer, stop=["c"])


def test_a_tokenizer_that_is_not_there_is_told(told: Told, server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        built(told, server, tokens="text", tokenizer=str(tmp_path))

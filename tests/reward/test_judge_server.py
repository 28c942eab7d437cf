"""A judge behind a server: what is sent, what is believed, and what becomes of answers that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.generate.fake import Asked, FakeServer, Reply

from truing.errors import RunFailed, UserError
from truing.fields import SCORE_PARTS, SCORES, Batch
from truing.run import Run
from truing_remote import http
from truing_reward import judge_prompts as prompts
from truing_reward.judge_server import harmless
from truing_reward.menu_judge import OpenAiJudge

from .conftest import Recorder
from .test_judge import rows, texts

CHAT = "/v1/chat/completions"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.002)
    with FakeServer() as fake:
        yield fake


def words(*places: dict[str, float], text: str = "A") -> Any:
    """An answer whose tokens have these words with these probabilities."""
    content = [
        {
            "token": next(iter(place)),
            "logprob": 0.0,
            "top_logprobs": [{"token": word, "logprob": math.log(chance)} for word, chance in place.items()],
        }
        for place in places
    ]
    choice = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": content} if content else None}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 2}}


def says(reply: Callable[[str], Any]) -> Callable[[Asked], Reply | None]:
    """What a server answers to a chat, by its last turn."""

    def answer(asked: Asked) -> Reply | None:
        return Reply(reply(asked.body["messages"][-1]["content"])) if asked.path == CHAT else None

    return answer


def scored(server: FakeServer, batch: Batch, **options: Any) -> tuple[Batch, list[str]]:
    """What the judge makes of a batch, and what people are told."""
    bus = Recorder()
    scorer = OpenAiJudge(url=server.url, **options).build(Run("test", Path(), 0, bus))
    return anyio.run(scorer.score, batch), bus.said


def by_order(shown: str) -> Any:
    """Holds "one" to be better, and leans to the first; some of it beside the letters."""
    first = shown.index("> one") < shown.index("> two")
    return words({"A": 0.5, " A": 0.2, "B": 0.1, "The": 0.2} if first else {"A": 0.4, "B": 0.4, "\n": 0.2})


def test_the_probabilities_of_the_first_word_in_both_orders_are_the_verdict(server: FakeServer) -> None:
    server.answer = says(by_order)
    batch, told = scored(server, texts(["one", "two"]))
    assert batch[SCORES].tolist() == pytest.approx([(0.7 / 0.8 + 0.5) / 2, (0.1 / 0.8 + 0.5) / 2])
    assert rows(batch)[0]["mass"] == pytest.approx([0.8, 0.8])
    assert rows(batch)[0]["tokens"] == 204
    assert batch[SCORE_PARTS][0]["missing"] == 0
    assert told == []
    bodies = server.bodies(CHAT)
    assert {body["model"] for body in bodies} == {"tiny"}
    assert {(body["logprobs"], body["top_logprobs"], body["temperature"]) for body in bodies} == {(True, 20, 0.0)}
    asked = prompts.shown(
        prompts.TEMPLATES["pairs"],
        {"prompt": "question 0?", "first": "one", "second": "two"},
        prompts.CRITERIA["helpful"],
    )
    (content,) = [body["messages"][0]["content"] for body in bodies if "A:\n> one" in body["messages"][0]["content"]]
    assert content == f"{asked}\n\nWhich answer is better? Reply with one letter alone: A or B."


def test_a_blank_before_the_verdict_is_passed_over(server: FakeServer) -> None:
    server.answer = says(lambda shown: words({" \n": 1.0}, {"4": 0.5, "5": 0.5}, text="\n4"))
    batch, _ = scored(server, texts(["one"]), form="points")
    assert batch[SCORES].tolist() == pytest.approx([2 * (4.5 - 1) / 4 - 1])


@pytest.mark.parametrize("said", ["A", " [[A]]\n", "**Answer: A**", "Answer A.", "The better answer is A"])
def test_where_no_probabilities_are_told_the_answer_counts_and_that_is_said_once(server: FakeServer, said: str) -> None:
    server.answer = says(lambda shown: words(text=said))
    batch, told = scored(server, texts(["one", "two"], ["three", "four"]))
    assert batch[SCORES].tolist() == [0.5] * 4
    assert rows(batch)[0]["forward"] == [1, 0]
    assert told == [f"{server.url}: it tells no log-probabilities, so what it says counts, as 0 or 1"]


@pytest.mark.parametrize("said", ["A and B", "I cannot say", "", "A is better than B", "C", "a", "AB"])
def test_an_answer_that_is_no_verdict_is_missing(server: FakeServer, said: str) -> None:
    server.answer = says(lambda shown: words(text=said))
    batch, told = scored(server, texts(["one", "two"]), logprobs=False)
    assert rows(batch)[0]["missing"] == ["unclear", "unclear"]
    assert batch[SCORES].tolist() == [0.5, 0.5]
    assert "2 of 2 verdicts are missing" in told[0]
    assert "logprobs" not in server.bodies(CHAT)[0]


def test_a_refusal_ends_the_run_when_it_is_most_of_what_is_said(server: FakeServer) -> None:
    server.answer = says(lambda shown: words({"I": 0.9, "A": 0.05}, text="I cannot judge that."))
    with pytest.raises(UserError, match=r"20 of 20 verdicts are missing.*as in \"I cannot judge that.\""):
        scored(server, texts(*[["one", "two"]] * 10))


def test_reasonings_come_before_the_verdicts_and_those_are_averaged(server: FakeServer) -> None:
    thoughts = iter(["the first", "the second <|im_end|>"] * 2)

    def reply(shown: str) -> Any:
        if "Do not give a verdict" in shown:
            return words(text=next(thoughts))
        return words({"A": 0.9, "B": 0.1})

    server.answer = says(reply)
    batch, _ = scored(server, texts(["one", "two"]), reasonings=2, reasoning_tokens=33, concurrency=1)
    assert rows(batch)[0]["forward"] == pytest.approx([0.9, 0.1])
    assert rows(batch)[0]["tokens"] == 2 * 2 * 204
    bodies = server.bodies(CHAT)
    think, decide = bodies[0], bodies[1]
    assert (think["max_tokens"], think["temperature"], "logprobs" in think) == (33, 1.0, False)
    assert [turn["role"] for turn in decide["messages"]] == ["user", "assistant", "user"]
    assert decide["messages"][0] == think["messages"][0]
    assert decide["messages"][1]["content"] == "the first"
    assert len({body["seed"] for body in bodies if "logprobs" not in body}) == 4
    assert "<|im_end|>" not in bodies[3]["messages"][1]["content"]


@pytest.mark.parametrize(
    "mark",
    [
        *("<|im_end|>", "<|im_start|>assistant", "</s>", "<s>", "[INST]", "[/INST]", "<<SYS>>", "<end_of_turn>"),
        *("<｜Assistant｜>", "<think>", "</think>", "<0x0A>", "[SEP]", "<bos>", "<|start_header_id|>"),
    ],
)
def test_marks_of_chat_templates_are_broken_up_before_they_are_sent(server: FakeServer, mark: str) -> None:
    server.answer = says(lambda shown: words({"A": 0.5, "B": 0.5}))
    scored(server, texts([f"one{mark}{mark}", "two"]))
    for body in server.bodies(CHAT):
        content = body["messages"][0]["content"]
        assert mark not in content
        assert mark in content.replace("\u200b", "")


def test_what_looks_like_no_mark_is_sent_as_it_is() -> None:
    text = "if a < b and c[0] > d: print('<b>bold</b>', x[i], List<String>) # [1] [todo] a|b"
    assert harmless(text) == text


def test_no_more_requests_are_under_way_than_told(server: FakeServer) -> None:
    server.answer = says(lambda shown: words({"A": 0.5, "B": 0.5}))
    scored(server, texts(*[["one", "two"]] * 12), concurrency=3)
    assert server.most_under_way <= 3
    assert server.count(CHAT) == 24


def test_a_busy_server_is_asked_again_and_that_is_said(server: FakeServer) -> None:
    sound = says(lambda shown: words({"A": 0.5, "B": 0.5}))
    server.answer = lambda asked: Reply({}, 503) if asked.path == CHAT and asked.number == 0 else sound(asked)
    batch, told = scored(server, texts(["one", "two"]))
    assert rows(batch)[0]["missing"] == ["", ""]
    assert told[0].startswith(f"{server.url}: 1 requests were sent again, the last because of: 503")


def test_a_server_that_refuses_is_told_with_a_mend(server: FakeServer) -> None:
    server.answer = lambda asked: Reply({"error": "unknown field"}, 400) if asked.path == CHAT else None
    with pytest.raises(UserError, match=r"openai-judge.*refuses: 400 unknown field\n.*logprobs = false"):
        scored(server, texts(["one", "two"]))


def test_an_answer_of_another_protocol_is_no_verdict(server: FakeServer) -> None:
    server.answer = lambda asked: Reply({"answer": "A"}) if asked.path == CHAT else None
    with pytest.raises(RunFailed, match="none of the OpenAI protocol"):
        scored(server, texts(["one", "two"]))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"url": "nowhere"}, "url"),
        ({"form": "points", "points": 10}, "points"),
        ({"think": "Think."}, "think"),
        ({"reasoning_tokens": 9}, "reasoning_tokens"),
        ({"logprobs": False, "top_logprobs": 5}, "top_logprobs"),
    ],
)
def test_options_of_a_server_that_cannot_be_are_told(options: dict[str, Any], option: str) -> None:
    assert [fault.option for fault in OpenAiJudge(**options).problems()] == [option]

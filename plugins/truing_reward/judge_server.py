"""A judge behind a server that speaks the OpenAI protocol.

A verdict is one short answer, of which the server tells how likely each first word was. No more than `concurrency`
requests are under way at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import anyio
import msgspec

from truing.events import Notice
from truing.fields import Message
from truing.run import Run, gathered
from truing_remote.http import Ask, Server
from truing_remote.protocol import Malformed, read, the_model, wrong
from truing_reward import menu_judge as menu
from truing_reward.judge_asking import Question, thinking, turns
from truing_reward.judge_verdicts import Verdict, averaged, verdict

WHERE = '[scorer] use = "openai-judge"'
_PLAIN = "a server that does not know logprobs and top_logprobs needs logprobs = false, or fewer of them"
_WORDS = 8
"""tokens of a verdict: some models begin with a blank or a quotation mark"""
_LONGEST = 60
"""characters of an answer that are shown to people"""

_MARK = re.compile(
    r"(?<=<)(?=[|｜]|/?(?:s|bos|eos|pad|unk|mask|sep|cls|think|tool_call|tool_response|image|audio|video"
    r"|[a-z]+_of_[a-z]+|extra_id_\d+|unused\d+|0x[0-9A-Fa-f]{2})>|<?/?SYS>)"
    r"|(?<=\[)(?=/?(?:INST|CLS|SEP|MASK|gMASK|PAD|UNK|BOS|EOS|[A-Z]+_[A-Z_]+)\])"
)
"""Behind the first letter of what looks like a mark of some chat template or tokenizer."""
_NOTHING = "\u200b"
"""A space without width: whoever reads sees the same, and no tokenizer a mark."""


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Place(msgspec.Struct):
    token: str
    top_logprobs: list[_Alternative] = []


class _Logprobs(msgspec.Struct):
    content: list[_Place] | None = None


class _Turn(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Turn
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class Said(NamedTuple):
    """What a server answers. places: of each token its alternatives and the log-probability of each; tokens: read and
    written for it."""

    text: str
    places: Sequence[_Place]
    tokens: int


class AtServer:
    """Asks a server."""

    def __init__(self, spec: menu.OpenAiJudge, run: Run) -> None:
        self._spec = spec
        self._run = run
        mends = {400: _PLAIN, 422: _PLAIN} if spec.logprobs else {}
        self._server = Server(
            spec.url, spec.key_env, where=WHERE, retries=spec.retries, timeout=spec.timeout, mends=mends
        )
        self._slots = anyio.CapacityLimiter(spec.concurrency)
        self._model = spec.model
        self._by_text = not spec.logprobs

    async def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdict on each question. Raises UserError for a server that is not there or refuses, RunFailed for one
        that stops to answer or answers nonsense."""
        repeats = self._server.repeats
        async with self._server.connected() as ask:
            self._model = self._model or await the_model(self._server, ask)
            found = await gathered([partial(self._verdict, ask, question) for question in questions])
        if self._server.repeats > repeats:
            count = self._server.repeats - repeats
            self._tell(f"{count} requests were sent again, the last because of: {self._server.trouble}")
        return found

    async def _verdict(self, ask: Ask, question: Question) -> Verdict:
        """One verdict, or the mean of those behind several reasonings."""
        async with self._slots:
            if not self._spec.reasonings:
                return await self._decided(ask, turns(self._spec, question.shown, None), 0)
            found: list[Verdict] = []
            for number in range(self._spec.reasonings):
                seed = self._run.seed_for("reasoning", question.shown, number)
                longest, temperature = self._spec.reasoning_tokens, self._spec.temperature
                said = await self._said(ask, thinking(self._spec, question.shown), longest, temperature, seed)
                decided = turns(self._spec, question.shown, said.text)
                found.append(await self._decided(ask, decided, said.tokens))
            return averaged(found)

    async def _decided(self, ask: Ask, conversation: Sequence[Message], spent: int) -> Verdict:
        """The verdict at the end of a conversation. spent: tokens that went before."""
        more = {"logprobs": True, "top_logprobs": self._spec.top_logprobs} if self._spec.logprobs else {}
        said = await self._said(ask, conversation, _WORDS, 0.0, self._run.seed_for("verdict"), more)
        shown = " ".join(said.text.split())[:_LONGEST]
        place = next((each for each in said.places if each.token.strip() and each.top_logprobs), None)
        if place is None and not self._by_text:
            self._by_text = True
            self._tell("it tells no log-probabilities, so what it says counts, as 0 or 1")
        chances = _of_text(said.text, self._spec.labels) if place is None else _of_words(place, self._spec.labels)
        return verdict(chances, self._spec.least_mass, spent + said.tokens, shown)

    async def _said(
        self,
        ask: Ask,
        conversation: Sequence[Message],
        longest: int,
        temperature: float,
        seed: int,
        more: dict[str, Any] | None = None,
    ) -> Said:
        """What the server says next in a conversation."""
        body = {
            "model": self._model,
            "messages": [{**turn, "content": harmless(turn["content"])} for turn in conversation],
            "max_tokens": longest,
            "temperature": temperature,
            "seed": seed,
            **(more or {}),
        }
        try:
            answer = read(await ask("POST", "/v1/chat/completions", body), _Answer)
            if len(answer.choices) != 1:
                raise Malformed(f"the server returns {len(answer.choices)} answers where one was asked for")
        except Malformed as error:
            raise wrong(self._server, error) from None
        choice, usage = answer.choices[0], answer.usage or _Usage()
        places = (choice.logprobs.content if choice.logprobs else None) or []
        return Said(choice.message.content or "", places, usage.prompt_tokens + usage.completion_tokens)

    def _tell(self, text: str) -> None:
        self._run.bus.publish(Notice(text=f"{self._server.url}: {text}", phase=self._run.phase))


def harmless(text: str) -> str:
    """A text in which nothing looks like a mark of a chat template: a space without width is put into each."""
    return _MARK.sub(_NOTHING, text)


def _of_words(place: _Place, labels: Sequence[str]) -> list[float]:
    """The probability of each label as a word, blanks around it or not, among the words a server tells of."""
    chances = dict.fromkeys(labels, 0.0)
    for each in place.top_logprobs:
        word = each.token.strip()
        if word in chances:
            chances[word] += math.exp(min(each.logprob, 0.0))
    return list(chances.values())


def _of_text(text: str, labels: Sequence[str]) -> list[float]:
    """1 for the label that an answer is, with nothing beside it but signs and what a verdict is called; else all 0."""
    names = "|".join(map(re.escape, labels))
    called = r"(?:(?i:the\s+)?(?i:better\s+)?(?i:answer|verdict|rating|option)\W+(?:(?i:is)\W+)?)?"
    found = re.fullmatch(rf"\W*{called}({names})\W*", text)
    return [float(found is not None and found[1] == label) for label in labels]

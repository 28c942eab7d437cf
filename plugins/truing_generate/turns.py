"""Turns: completions in which an environment answers the model, and the model goes on.

    [ prompt | the model's turn | heard | the model's turn | heard | its last turn ]

Tokens go in and tokens stay: what was sampled is never encoded anew, and only what the environment says is, each answer
by itself. Marks in it are letters, so no text can end a turn that it does not end. All rollouts of a call are answered
side by side before any of them speaks again, so how long an answer takes changes nothing that is sampled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import anyio

from truing.errors import RunFailed, TruingError
from truing.fields import ANSWERS, IDS, METADATA, PROMPTS, Batch, Message
from truing.run import Run, Stopped, gathered
from truing.stage import Environment, Episode, Reply, Said, Task
from truing_generate.completions import Completion
from truing_generate.plugin import CompletionsSpec
from truing_texts.chat import Chat

CLOSING_SECONDS = 10.0
"""how long an episode may take to let go of what it holds when a run is cancelled"""


class Limits(NamedTuple):
    """turns: the most the model may have. heard: tokens of the environment's that a completion may hold."""

    turns: int
    heard: int


@dataclass(frozen=True)
class Hearing:
    """What an environment says, as tokens. plain: encodes a text. chat: how conversations are laid out, if they are.
    ends: tokens that end a turn."""

    plain: Callable[[str], list[int]]
    chat: Chat | None
    ends: Collection[int]

    @classmethod
    def of(cls, chat: Chat, ends: Collection[int]) -> Hearing:
        """By a model's own tokenizer."""
        return cls(partial(chat.ids, plain=True), chat if chat.chats else None, ends)

    def __call__(self, reply: Reply, talks: bool, ended: bool) -> list[int]:
        """Tokens from behind a turn to where the next begins. talks: in a conversation. ended: the turn has its end
        token, and needs none of the chat template's."""
        if not talks or self.chat is None:
            return self.plain(reply.text)
        *_, before, after = self.chat.frame(("user", "assistant", reply.role))
        closing = self.chat.ids(before)
        if ended:
            found = [at for at, token in enumerate(closing) if token in self.ends]
            closing = closing[found[0] + 1 :] if found else closing
        return [*closing, *self.plain(reply.text), *self.chat.ids(after)]


@dataclass
class Rollout:
    """A completion in turns. talks: its prompt is a conversation. turns: how many the model had. heard: of each answer
    how many tokens the model had written before it, and its own. cut: the limit it met, "" if it met none."""

    task: Task
    episode: Episode
    hearing: Hearing
    limits: Limits
    name: str
    talks: bool
    turns: int = 0
    earned: float = 0.0
    cut: Literal["", "turns", "length", "heard"] = ""
    heard: list[tuple[int, list[int]]] = field(default_factory=list[tuple[int, list[int]]])
    messages: list[Message] = field(default_factory=list[Message])

    async def answered(self, said: Said, written: int, room: int) -> list[int] | None:
        """What a turn is answered, as tokens; None where that was the last. written: tokens of the model's so far.
        room: how many more it may write. Raises RunFailed for an environment that fails."""
        self.turns += 1
        with _told(self.name, f"{self.task.id}, turn {self.turns}"):
            reply = await self.episode.step(said)
        self.earned += reply.reward
        more = not reply.done and not self._short(reply, room)
        self._keep("assistant", said.text + said.ended_by if more else said.text)
        if not more:
            return None
        tokens = self._tokens(reply, said)
        self.heard.append((written, tokens))
        self._keep(reply.role, reply.text)
        return tokens

    def completion(self, last: Completion) -> Completion:
        """The completion of a rollout that is over: its turns, or in plain text all that was said, end to end. last:
        with the text and the end of its last turn, and with the tokens of all."""
        if last.finish == "length":
            # Cut in the middle of a turn, so nobody was asked to answer it.
            self.turns += 1
            self._keep("assistant", str(last.text))
        told = last._replace(finish=self.cut or last.finish, turns=self.turns, heard=self.heard, earned=self.earned)
        if self.talks:
            return told._replace(text=self.messages)
        return told._replace(text="".join(message["content"] for message in self.messages), spoken=self.messages)

    def _short(self, reply: Reply, room: int) -> bool:
        """Whether there is no room to go on: of which, is kept."""
        used = sum(len(tokens) for _, tokens in self.heard)
        if self.turns >= self.limits.turns:
            self.cut = "turns"
        elif room < 1:
            self.cut = "length"
        elif used + len(self.hearing.plain(reply.text)) > self.limits.heard:
            self.cut = "heard"
        return bool(self.cut)

    def _tokens(self, reply: Reply, said: Said) -> list[int]:
        return self.hearing(reply, self.talks, not said.ended_by)

    def _keep(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})


@dataclass(frozen=True)
class Scene:
    """The environment that a generator's completions are answered by."""

    environment: Environment
    name: str
    limits: Limits

    @classmethod
    def of(cls, spec: CompletionsSpec, run: Run) -> Scene | None:
        """The scene of a generator; None where nobody answers."""
        if spec.environment is None:
            return None
        return cls(spec.environment.build(run), spec.environment.name, Limits(spec.turns, spec.max_heard))

    @asynccontextmanager
    async def rollouts(
        self, batch: Batch, seeds: Sequence[Sequence[int]], hearing: Hearing
    ) -> AsyncIterator[list[list[Rollout]]]:
        """The rollouts of each prompt, begun, and closed in the end. Raises RunFailed for an environment that fails."""
        begun: list[Episode] = []

        async def begin(task: Task) -> Rollout:
            with _told(self.name, task.id):
                episode = await self.environment.reset(task)
            begun.append(episode)
            return Rollout(task, episode, hearing, self.limits, self.name, isinstance(task.prompt, list))

        tasks = _tasks(batch, seeds)
        try:
            found = iter(await gathered([partial(begin, task) for some in tasks for task in some]))
            yield [[next(found) for _ in some] for some in tasks]
        finally:
            with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                await gathered([episode.close for episode in begun])


def _tasks(batch: Batch, seeds: Sequence[Sequence[int]]) -> list[list[Task]]:
    count = len(batch[IDS])
    answers = batch[ANSWERS] if ANSWERS in batch else [""] * count
    metadata = batch[METADATA] if METADATA in batch else [{}] * count
    known = zip(batch[IDS], batch[PROMPTS], answers, metadata, seeds, strict=True)
    return [[Task(name, prompt, answer, more, seed) for seed in some] for name, prompt, answer, more, some in known]


@contextmanager
def _told(name: str, where: str) -> Iterator[None]:
    """What an environment raises, with who it was."""
    try:
        yield
    except (TruingError, Stopped):
        raise
    except Exception as error:
        raise RunFailed(f'the environment "{name}" failed on {where}: {type(error).__name__}: {error}') from error

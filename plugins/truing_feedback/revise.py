"""Critique and revision: every answer is a conversation that goes on, and all conversations go on side by side.

    prompt -> answer -> [ "criticise it by ..." -> critique -> "write it anew" -> revision ] ... rounds

A call for each step of all conversations of a batch. Names and seeds of a call follow from those of the prompt, the
number of the answer and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio.to_thread
import torch

from truing.errors import RunFailed
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEEDS,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
    Field,
    Text,
)
from truing.run import Run
from truing.stage import Generator, Weights
from truing_feedback import menu_revise as menu
from truing_feedback.asking import Round, examples, to_criticise, to_revise
from truing_tensor.segments import owners
from truing_texts.chat import Chat
from truing_texts.constitution import Principle, constitution

WHERE = '[generator] use = "critique-revise"'


class Written(NamedTuple):
    """What was written in one step."""

    text: str
    tokens: list[int]
    finish: str
    version: int


class Answer(NamedTuple):
    """An answer as it was after some rounds, and how it came about."""

    written: Written
    round: int
    critiques: list[dict[str, Any]]


@dataclass(eq=False)
class Talk:
    """The conversation about one answer to a prompt. group: of the prompt; number: of the answer; answers: the first
    and its revisions so far; principle, critique: of the round."""

    group: int
    number: int
    prompt: Text
    answers: list[Answer] = field(default_factory=list[Answer])
    critique: str = ""
    principle: Principle | None = None

    @property
    def last(self) -> Answer:
        """The answer as it is now."""
        return self.answers[-1]

    @property
    def round(self) -> Round:
        """The round that is under way."""
        assert self.principle
        return Round(self.prompt, self.last.written.text, self.principle, self.critique)


class CritiqueRevise:
    """Writes answers and revises them."""

    def __init__(self, spec: menu.CritiqueRevise, run: Run) -> None:
        self._spec = spec
        self._run = run
        self._generator = spec.generator.build(run)
        self._critic = spec.critic.build(run) if spec.critic else self._generator
        made = constitution(spec.constitution)
        self._principles, self._examples = made.principle, examples(made)
        self._chat: Chat | None = None

    async def sync_weights(self, weights: Weights) -> None:
        """Write with these weights from now on. Raises UserError for a chat template that cannot be used."""
        self._chat = self._chat or await anyio.to_thread.run_sync(Chat, weights.origin, WHERE)
        await self._generator.sync_weights(weights)
        if self._critic is not self._generator:
            await self._critic.sync_weights(weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the revisions of its prompts, ROUND and CRITIQUES [seq]. Raises RunFailed for a prompt of
        whose answers none could be revised, and what the generator raises."""
        assert self._chat, "weights come before prompts"
        talks = [
            Talk(group, number, prompt)
            for group, prompt in enumerate(batch[PROMPTS])
            for number in range(self._spec.samples)
        ]
        for talk, written in zip(talks, await self._first(batch, talks), strict=True):
            talk.answers.append(Answer(written, 0, []))
        for at in range(1, self._spec.rounds + 1):
            for talk in talks:
                talk.principle = self._drawn(batch, talk, at)
            critiques = await self._asked(batch, talks, f"critique-{at}", to_criticise, self._critic)
            for talk, critique in critiques:
                talk.critique = critique.text
            going = [talk for talk, critique in critiques if critique.text.strip()]
            for talk, revision in await self._asked(batch, going, f"revision-{at}", to_revise, self._generator):
                # A revision without words leaves the answer as it is.
                if revision.text.strip():
                    talk.answers.append(Answer(revision, at, [*talk.last.critiques, _row(talk)]))
        return self._laid_out(batch, talks)

    def _drawn(self, batch: Batch, talk: Talk, at: int) -> Principle:
        """The principle of a round: by the run's seed, the prompt and the answer it is about."""
        seed = self._run.seed_for("principle", batch[IDS][talk.group], talk.number, at, talk.last.written.text)
        return self._principles[seed % len(self._principles)]

    async def _first(self, batch: Batch, talks: Sequence[Talk]) -> list[Written]:
        """The first answers, to the prompts as they were encoded."""
        sizes: list[int] = torch.bincount(batch[PROMPT_GROUP], minlength=len(batch[IDS])).tolist()
        tokens: list[list[int]] = [part.tolist() for part in batch[PROMPT_TOKENS].split(sizes)]
        asked = [talk.prompt for talk in talks]
        return await self._written(
            batch, talks, "answer", asked, [tokens[talk.group] for talk in talks], self._generator
        )

    async def _asked(
        self,
        batch: Batch,
        talks: Sequence[Talk],
        step: str,
        turn: Callable[[Sequence[Round], Round], Text],
        who: Generator,
    ) -> list[tuple[Talk, Written]]:
        """What is written next in those conversations that are not too long, each with what was written."""
        assert self._chat
        asked = [turn(self._examples, talk.round) for talk in talks]
        tokens = [self._chat.tokens(conversation) for conversation in asked]
        fit = [at for at, some in enumerate(tokens) if len(some) <= self._spec.max_tokens]
        going = [talks[at] for at in fit]
        written = await self._written(batch, going, step, [asked[at] for at in fit], [tokens[at] for at in fit], who)
        return list(zip(going, written, strict=True))

    async def _written(
        self,
        batch: Batch,
        talks: Sequence[Talk],
        step: str,
        asked: Sequence[Text],
        tokens: Sequence[list[int]],
        who: Generator,
    ) -> list[Written]:
        """What a generator writes for each of these prompts."""
        if not talks:
            return []
        values: dict[Field[Any], Any] = {
            IDS: [f"{batch[IDS][talk.group]}/{talk.number}/{step}" for talk in talks],
            PROMPTS: list(asked),
            PROMPT_TOKENS: torch.tensor([token for part in tokens for token in part], dtype=torch.int64),
            PROMPT_GROUP: owners([len(part) for part in tokens]),
        }
        if SEEDS in batch:
            values[SEEDS] = [batch[SEEDS][talk.group] for talk in talks]
        found = await who.generate(Batch(values))
        if found[GROUP].tolist() != list(range(len(talks))):
            raise RunFailed(f"{len(found[GROUP])} texts were written where {len(talks)} were asked for, one of each")
        sizes: list[int] = torch.bincount(found[SEQ], minlength=len(talks)).tolist()
        texts: list[Any] = found[COMPLETIONS]
        return [
            Written(*each)
            for each in zip(
                texts,
                [part.tolist() for part in found[TOKENS].split(sizes)],
                found[FINISH],
                found[VERSION].tolist(),
                strict=True,
            )
        ]

    def _laid_out(self, batch: Batch, talks: Sequence[Talk]) -> Batch:
        """The answers that are kept, as completions of their prompts."""
        kept = [(talk.group, answer) for talk in talks for answer in self._kept(talk)]
        for group, name in enumerate(batch[IDS]):
            if all(group != whose for whose, _ in kept):
                raise RunFailed(
                    f"no answer to {name} was revised: the conversation is longer than max_tokens = "
                    f"{self._spec.max_tokens}, or nothing was written"
                )
        answers = [answer for _, answer in kept]
        own = {key: value for key, value in batch.items() if key.dims in ("", "group", "prompt_token")}
        return Batch(own).put_all(
            {
                GROUP: torch.tensor([group for group, _ in kept], dtype=torch.int64),
                COMPLETIONS: [answer.written.text for answer in answers],
                TOKENS: torch.tensor([token for answer in answers for token in answer.written.tokens]),
                SEQ: owners([len(answer.written.tokens) for answer in answers]),
                FINISH: [answer.written.finish for answer in answers],
                VERSION: torch.tensor([answer.written.version for answer in answers], dtype=torch.int64),
                menu.ROUND: torch.tensor([answer.round for answer in answers], dtype=torch.int64),
                menu.CRITIQUES: [answer.critiques for answer in answers],
            }
        )

    def _kept(self, talk: Talk) -> list[Answer]:
        if self._spec.keep == "all-and-first":
            return talk.answers
        revised = talk.answers[1:]
        return revised if self._spec.keep == "all" else revised[-1:]


def _row(talk: Talk) -> dict[str, Any]:
    assert talk.principle
    return {"principle": talk.principle.id, "answer": talk.last.written.text, "critique": talk.critique}

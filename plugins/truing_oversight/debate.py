"""Debates: the statements of two sides, written side by side for all debates of a batch.

    own     [ prompt | statement | heard | statement | heard | ... ]     handed on
    other   [ its own prompt | heard | statement | heard | ... ]         heard

What a side writes is never encoded anew, and what it hears is encoded by itself, so a completion is, token for token,
what its model saw. Names and seeds of a call follow from those of the prompt, the number of the debate, the round and
the side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import torch

from truing.errors import Problem, RunFailed, UserError
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    METADATA,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEEDS,
    SEQ,
    TOKENS,
    TURNS,
    VERSION,
    Batch,
    Field,
    Message,
    Text,
)
from truing.run import Run
from truing.stage import Weights
from truing_oversight import menu_debate as menu
from truing_oversight.menu_debate import STATEMENTS
from truing_tensor.segments import owners
from truing_tensor.turns import heard_fields
from truing_texts.chat import Chat
from truing_texts.quoting import words

WHERE = '[generator] use = "debate"'
_LOGPROBS = (LOGPROBS_OLD, LOGPROBS_SAMPLED)


@dataclass(eq=False)
class Side:
    """One debater of one debate. row: all tokens up to where it speaks next; own: those it wrote; heard: of what it was
    told how many it had written before, and its tokens; logprobs: of its own tokens, by field."""

    prompt: Text
    row: list[int]
    own: list[int] = field(default_factory=list[int])
    heard: list[tuple[int, list[int]]] = field(default_factory=list[tuple[int, list[int]]])
    logprobs: dict[Field[Any], list[float]] = field(default_factory=dict[Field[Any], list[float]])
    said: list[Message] = field(default_factory=list[Message])
    finish: str = ""
    version: int = 0
    turns: int = 0


@dataclass(eq=False)
class Talk:
    """A debate about one prompt. sides: its own first."""

    group: int
    number: int
    sides: tuple[Side, ...]
    statements: list[list[Any]] = field(default_factory=list[list[Any]])


class Debate:
    """Lets two sides argue."""

    def __init__(self, spec: menu.Debate, run: Run) -> None:
        self._spec = spec
        self._generator = spec.generator.build(run)
        self._run = run
        self._chat: Chat | None = None

    async def sync_weights(self, weights: Weights) -> None:
        """Argue with these weights from now on. Raises UserError for a chat template that cannot be used."""
        self._chat = self._chat or await anyio.to_thread.run_sync(Chat, weights.origin, WHERE)
        await self._generator.sync_weights(weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with one side of each debate. Raises UserError for prompts that say nothing of the other side, and
        what the generator raises."""
        talks = self._begun(batch)
        for at in range(self._spec.rounds):
            for turn in self._turns(talks):
                await self._speak(batch, talks, turn, at)
        return self._laid_out(batch, talks)

    def _begun(self, batch: Batch) -> list[Talk]:
        assert self._chat, "weights come before prompts"
        sizes: list[int] = torch.bincount(batch[PROMPT_GROUP], minlength=len(batch[IDS])).tolist()
        tokens = [part.tolist() for part in batch[PROMPT_TOKENS].split(sizes)]
        talks: list[Talk] = []
        for group, (name, known) in enumerate(zip(batch[IDS], batch[METADATA], strict=True)):
            if lacking := {"question", "claims", "honest", "opponent"} - known.keys():
                what = f'its metadata have no "{min(lacking)}"'
                raise UserError(Problem(f"{WHERE}, {name}", what, "name the column in metadata of [source]"))
            for number in range(self._spec.samples):
                own = Side(batch[PROMPTS][group], list(tokens[group]))
                other = Side(known["opponent"], self._chat.tokens(known["opponent"]))
                talks.append(Talk(group, number, (own,) if self._spec.consultancy else (own, other)))
        return talks

    def _turns(self, talks: Sequence[Talk]) -> list[list[tuple[Talk, int]]]:
        """Who speaks at once, and who afterwards: debates, each with the number of a side."""
        every = [(talk, side) for talk in talks for side in range(len(talk.sides))]
        if self._spec.order == "simultaneous" or self._spec.consultancy:
            return [every]
        first = [(talk, side) for talk, side in every if side == talk.number % 2]
        return [first, [one for one in every if one not in first]]

    async def _speak(self, batch: Batch, talks: Sequence[Talk], turn: list[tuple[Talk, int]], at: int) -> None:
        """Let sides speak at once, and tell the others what they said."""
        room = self._spec.max_tokens
        going = [(talk, side) for talk, side in turn if all(len(each.row) < room for each in talk.sides)]
        if not going:
            return
        names = [f"{batch[IDS][talk.group]}/{talk.number}/{at}/{side}" for talk, side in going]
        rows = [talk.sides[side].row for talk, side in going]
        values: dict[Field[Any], Any] = {
            IDS: names,
            PROMPTS: [talk.sides[side].prompt for talk, side in going],
            PROMPT_TOKENS: torch.tensor([token for row in rows for token in row], dtype=torch.int64),
            PROMPT_GROUP: owners([len(row) for row in rows]),
        }
        if SEEDS in batch:
            values[SEEDS] = [batch[SEEDS][talk.group] for talk, _ in going]
        found = await self._generator.generate(Batch(values))
        if found[GROUP].tolist() != list(range(len(going))):
            raise RunFailed(f"{len(found[GROUP])} statements were written where {len(going)} were asked for")
        texts = [words(text) for text in found[COMPLETIONS]]
        for number, (talk, side) in enumerate(going):
            self._keep(talk.sides[side], found, number, texts[number])
            talk.statements.append([side, texts[number]])
        for number, (talk, side) in enumerate(going):
            if len(talk.sides) == 2:
                self._tell(talk.sides[1 - side], texts[number])

    def _keep(self, side: Side, found: Batch, number: int, text: str) -> None:
        mine = found[SEQ] == number
        tokens: list[int] = found[TOKENS][mine].tolist()
        side.own += tokens
        side.row += tokens
        for key in _LOGPROBS:
            if key in found:
                side.logprobs.setdefault(key, []).extend(found[key][mine].tolist())
        side.said.append({"role": "assistant", "content": text})
        side.finish, side.version = found[FINISH][number], int(found[VERSION][number])
        side.turns += 1

    def _tell(self, side: Side, text: str) -> None:
        tokens = self._heard(side, text)
        side.heard.append((len(side.own), tokens))
        side.row += tokens
        side.said.append({"role": "user", "content": text})

    def _heard(self, side: Side, text: str) -> list[int]:
        """What the other side said, as tokens from behind the last turn to where the next begins."""
        chat = self._chat
        assert chat
        if isinstance(side.prompt, str) or not chat.chats:
            return chat.ids(f"\n{text}\n", plain=True)
        *_, before, after = chat.frame(("user", "assistant", "user"))
        closing = chat.ids(before)
        if side.finish == "end" and chat.end in closing:
            closing = closing[closing.index(chat.end) + 1 :]
        return [*closing, *chat.ids(text, plain=True), *chat.ids(after)]

    def _laid_out(self, batch: Batch, talks: Sequence[Talk]) -> Batch:
        """The sides that the prompts are about, as completions of several turns."""
        own = [talk.sides[0] for talk in talks]
        if silent := next((talk for talk in talks if not talk.sides[0].own), None):
            name = batch[IDS][silent.group]
            raise RunFailed(f"nothing was said about {name}: it is longer than max_tokens = {self._spec.max_tokens}")
        values: dict[Field[Any], Any] = {
            GROUP: torch.tensor([talk.group for talk in talks], dtype=torch.int64),
            COMPLETIONS: [side.said if isinstance(side.prompt, list) else _joined(side.said) for side in own],
            TOKENS: torch.tensor([token for side in own for token in side.own], dtype=torch.int64),
            SEQ: owners([len(side.own) for side in own]),
            FINISH: [side.finish for side in own],
            VERSION: torch.tensor([side.version for side in own], dtype=torch.int64),
            TURNS: torch.tensor([side.turns for side in own], dtype=torch.int64),
            **heard_fields((len(side.own), side.heard) for side in own),
            STATEMENTS: [talk.statements for talk in talks],
        }
        for key in _LOGPROBS:
            if key in own[0].logprobs:
                values[key] = torch.tensor([value for side in own for value in side.logprobs[key]])
        kept = {key: value for key, value in batch.items() if key.dims in ("", "group", "prompt_token")}
        return Batch(kept).put_all(values)


def _joined(said: Sequence[Message]) -> str:
    return "\n".join(turn["content"] for turn in said)

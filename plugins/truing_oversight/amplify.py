"""Amplification: trees of questions, grown side by side for all prompts of a batch.

    prompt -> overseer -> "ask: q" -> assistant -> overseer (has heard) -> ... -> "answer: a" -> completion
                              +---> overseer, one level deeper, where depth allows

Each tree is at one question at a time, the last of its open ones, so a step of all trees is one call of the overseer
and one of the assistant. Names and seeds of a call follow from those of the prompt, the number of the answer and of the
step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    Message,
    Text,
)
from truing.run import Run
from truing.stage import Generator, Weights
from truing_oversight import menu_amplify as menu
from truing_oversight.menu_amplify import ASKED, CONSULTED, SPENT
from truing_tensor.segments import owners
from truing_texts.chat import Chat
from truing_texts.quoting import words

WHERE = '[generator] use = "amplify"'


@dataclass(eq=False)
class Question:
    """A question that is not yet answered. said: by the overseer and to it, in turns, behind the question."""

    text: str
    said: list[Message] = field(default_factory=list[Message])


@dataclass(eq=False)
class Tree:
    """The questions about one prompt. open: the prompt, what was asked of it, what was asked of that."""

    group: int
    number: int
    open: list[Question]
    consulted: list[list[Any]] = field(default_factory=list[list[Any]])
    spent: int = 0
    answer: str = ""


class Amplify:
    """Answers prompts as an overseer does who has the model for an assistant."""

    def __init__(self, spec: menu.Amplify, run: Run) -> None:
        self._spec = spec
        self._overseer = spec.overseer.build(run)
        self._assistant = spec.assistant.build(run)
        self._chat: Chat | None = None
        self._version = 0

    async def sync_weights(self, weights: Weights) -> None:
        """Ask the model with these weights from now on. Raises UserError for a chat template that cannot be used."""
        self._chat = self._chat or await anyio.to_thread.run_sync(Chat, weights.origin, WHERE)
        self._version = weights.version
        await self._overseer.sync_weights(weights)
        await self._assistant.sync_weights(weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the overseer's answers, CONSULTED and SPENT [seq]. Raises RunFailed for a prompt on which it
        abstains, and what both generators raise."""
        trees = [
            Tree(group, number, [Question(words(prompt))])
            for group, prompt in enumerate(batch[PROMPTS])
            for number in range(self._spec.samples)
        ]
        step = 0
        while going := [tree for tree in trees if tree.open]:
            overseen = [tree for tree in going if len(tree.open) <= self._spec.depth]
            asked = [tree for tree in going if len(tree.open) > self._spec.depth]
            for tree, text in await self._written(batch, self._overseer, overseen, step, self._overseen):
                self._heed(batch, tree, text)
            for tree, text in await self._written(batch, self._assistant, asked, step, _asked):
                self._answered(tree, text)
            step += 1
        return self._laid_out(batch, trees)

    def _overseen(self, batch: Batch, tree: Tree) -> Text:
        """The conversation with the overseer about the last open question."""
        about = tree.open[-1]
        return [{"role": "user", "content": f"{self._spec.instruction}\n\n{about.text}"}, *about.said]

    def _heed(self, batch: Batch, tree: Tree, text: str) -> None:
        """Ask what the overseer asks, or take its answer."""
        line = text.strip()
        verb, _, rest = (part.strip() for part in line.partition(":"))
        if verb.lower() not in ("ask", "answer") or not rest:
            name, about = batch[IDS][tree.group], tree.open[-1].text
            raise RunFailed(f"the overseer abstains on {name}: asked {about!r} it neither asks nor answers: {line!r}")
        if verb.lower() == "answer":
            self._answered(tree, rest)
            return
        tree.open[-1].said.append({"role": "assistant", "content": line})
        tree.open.append(Question(rest))

    def _answered(self, tree: Tree, answer: str) -> None:
        """Close the last open question, and tell whoever asked."""
        closed = tree.open.pop()
        if not tree.open:
            tree.answer = answer
            return
        tree.consulted.append([len(tree.open), closed.text, answer])
        tree.open[-1].said.append({"role": "user", "content": answer})

    async def _written(
        self,
        batch: Batch,
        generator: Generator,
        trees: Sequence[Tree],
        step: int,
        prompt: Callable[[Batch, Tree], Text],
    ) -> list[tuple[Tree, str]]:
        """What a generator writes next in each tree, within what the trees may spend."""
        assert self._chat, "weights come before prompts"
        if not trees:
            return []
        prompts = [prompt(batch, tree) for tree in trees]
        tokens = [self._chat.tokens(some) for some in prompts]
        values: dict[Field[Any], Any] = {
            IDS: [f"{batch[IDS][tree.group]}/{tree.number}/{step}" for tree in trees],
            PROMPTS: prompts,
            PROMPT_TOKENS: torch.tensor([token for part in tokens for token in part], dtype=torch.int64),
            PROMPT_GROUP: owners([len(part) for part in tokens]),
            ASKED: [tree.open[-1].text for tree in trees],
        }
        if SEEDS in batch:
            values[SEEDS] = [batch[SEEDS][tree.group] for tree in trees]
        found = await generator.generate(Batch(values))
        if found[GROUP].tolist() != list(range(len(trees))):
            raise RunFailed(f"{len(found[GROUP])} texts were written where {len(trees)} were asked for")
        texts = [words(text) for text in found[COMPLETIONS]]
        for tree, read, text in zip(trees, tokens, texts, strict=True):
            tree.spent += len(read) + len(self._chat.ids(text, plain=True))
            if tree.spent > self._spec.budget:
                name, deep = batch[IDS][tree.group], len(tree.consulted)
                raise RunFailed(
                    f"the overseer abstains on {name}: budget = {self._spec.budget} tokens are spent "
                    f"and {deep} questions answered"
                )
        return list(zip(trees, texts, strict=True))

    def _laid_out(self, batch: Batch, trees: Sequence[Tree]) -> Batch:
        """The answers, as completions of their prompts."""
        assert self._chat
        tokens = [[*self._chat.ids(tree.answer, plain=True), self._chat.end] for tree in trees]
        chats = [isinstance(batch[PROMPTS][tree.group], list) for tree in trees]
        kept = {key: value for key, value in batch.items() if key.dims in ("", "group", "prompt_token")}
        return Batch(kept).put_all(
            {
                GROUP: torch.tensor([tree.group for tree in trees], dtype=torch.int64),
                COMPLETIONS: [
                    [{"role": "assistant", "content": tree.answer}] if chat else tree.answer
                    for tree, chat in zip(trees, chats, strict=True)
                ],
                TOKENS: torch.tensor([token for some in tokens for token in some], dtype=torch.int64),
                SEQ: owners([len(some) for some in tokens]),
                FINISH: ["end"] * len(trees),
                VERSION: torch.full((len(trees),), self._version, dtype=torch.int64),
                CONSULTED: [tree.consulted for tree in trees],
                SPENT: torch.tensor([tree.spent for tree in trees], dtype=torch.int64),
            }
        )


def _asked(batch: Batch, tree: Tree) -> Text:
    """The last open question, laid out as the prompt is."""
    text = tree.open[-1].text
    return text if isinstance(batch[PROMPTS][tree.group], str) else [{"role": "user", "content": text}]

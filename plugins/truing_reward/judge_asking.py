"""A judge in this process: the probability of each word that its verdict may be, read off one forward pass.

    question -> tokens -> [reasoning -> tokens] -> log-probability of every label behind them -> verdict

Tokens are made in pieces. What the chat template writes may hold its marks; what is asked, and with it every text that
is judged, is encoded as plain text, so a mark in a text is letters and not a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import anyio
import anyio.to_thread
import torch

from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEEDS,
    SEQ,
    TOKENS,
    Batch,
    Message,
    fields,
)
from truing.run import Run
from truing_reward import judge_prompts as prompts, menu_judge as menu
from truing_reward.judge_verdicts import Verdict, averaged, exclusive, verdict
from truing_tensor.segments import owners, segment_sum
from truing_texts.chat import Chat

WHERE = '[scorer] use = "judge"'


class Question(NamedTuple):
    """What a judge is asked. name: one of its own, that seeds are drawn from; shown: all but the question itself."""

    name: str
    shown: str


class Asker(Protocol):
    """Whoever can be asked."""

    async def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdict on each question."""
        ...


def turns(spec: menu.JudgeSpec, shown: str, reasoning: str | None) -> list[Message]:
    """The conversation that ends with the question for a verdict. reasoning: what the judge wrote before it."""
    question = spec.question or prompts.question_of(spec.form, spec.labels)
    if reasoning is None:
        return [{"role": "user", "content": f"{shown}\n\n{question}"}]
    return [*thinking(spec, shown), {"role": "assistant", "content": reasoning}, {"role": "user", "content": question}]


def thinking(spec: menu.JudgeSpec, shown: str) -> list[Message]:
    """The conversation that ends with the request for a reasoning."""
    return [{"role": "user", "content": f"{shown}\n\n{spec.think or prompts.THINK[spec.form]}"}]


class InProcess:
    """Asks a model in this process."""

    def __init__(self, spec: menu.Judge, run: Run) -> None:
        self._spec = spec
        self._run = run
        # Nobody learns from it, so it needs no reference, whatever other stages of the phase do.
        self._model = spec.model.build(run.at(run.phase, fields()))
        self._reasoning = spec.reasoning.build(run) if spec.reasoning else None
        self._layout: Layout | None = None
        self._meeting = anyio.Lock()

    async def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdict on each question; without a reasoning the same for the same texts, to the last bit of a machine's
        arithmetic. Raises Stopped, and UserError for a template that cannot be used."""
        layout = await self._met()
        if self._reasoning is None:
            heads = [layout.asked(turns(self._spec, each.shown, None)) for each in questions]
            return await self._run.on_device(self._read, layout, heads, [0] * len(heads))
        batch = self._to_think(layout, questions)
        written = await self._reasoning.generate(batch)
        of: list[int] = written[GROUP].tolist()
        sizes: list[int] = torch.bincount(written[SEQ], minlength=len(of)).tolist()
        heads = [
            layout.asked(turns(self._spec, questions[at].shown, prompts.said(text)))
            for at, text in zip(of, written[COMPLETIONS], strict=True)
        ]
        read: list[int] = torch.bincount(batch[PROMPT_GROUP], minlength=len(questions)).tolist()
        spent = [read[at] + size for at, size in zip(of, sizes, strict=True)]
        found = await self._run.on_device(self._read, layout, heads, spent)
        return [
            averaged([each for each, whose in zip(found, of, strict=True) if whose == at])
            for at in range(len(questions))
        ]

    async def _met(self) -> Layout:
        """How its tokens are laid out, once it was looked at."""
        async with self._meeting:
            if self._layout is None:
                weights = self._model.weights()
                self._layout = await anyio.to_thread.run_sync(Layout, self._spec, weights.origin)
                if self._reasoning:
                    await self._reasoning.sync_weights(weights)
            return self._layout

    def _to_think(self, layout: Layout, questions: Sequence[Question]) -> Batch:
        """The questions as prompts of whoever writes reasonings."""
        asked = [thinking(self._spec, each.shown) for each in questions]
        tokens = [layout.tokens(each) for each in asked]
        return Batch(
            {
                IDS: [each.name for each in questions],
                PROMPTS: asked,
                SEEDS: [self._run.seed_for("reasoning", each.shown) for each in questions],
                PROMPT_TOKENS: torch.tensor([token for part in tokens for token in part], dtype=torch.int64),
                PROMPT_GROUP: owners([len(part) for part in tokens]),
            }
        )

    def _read(self, layout: Layout, heads: Sequence[list[int]], spent: Sequence[int]) -> list[Verdict]:
        """The verdict behind each of these beginnings. spent: tokens that went before."""
        longest = max(map(len, layout.labels))
        fit = [at for at, head in enumerate(heads) if len(head) + longest <= self._spec.max_tokens]
        found = [Verdict((), 0.0, some, "long") for some in spent]
        chances = self._chances(layout, [heads[at] for at in fit])
        for at, each in zip(fit, chances, strict=True):
            own = exclusive(each, layout.labels)
            found[at] = verdict(own, self._spec.least_mass, spent[at] + len(heads[at]))
        return found

    def _chances(self, layout: Layout, heads: Sequence[list[int]]) -> list[list[float]]:
        """The probability of each label behind each beginning: that its tokens come next."""
        if not heads:
            return []
        count = len(layout.labels)
        tails = [token for _ in heads for label in layout.labels for token in label]
        batch = Batch(
            {
                IDS: [str(at) for at in range(len(heads))],
                GROUP: owners([count] * len(heads)),
                PROMPT_TOKENS: torch.tensor([token for head in heads for token in head], dtype=torch.int64),
                PROMPT_GROUP: owners([len(head) for head in heads]),
                TOKENS: torch.tensor(tails, dtype=torch.int64),
                SEQ: owners([len(label) for _ in heads for label in layout.labels]),
            }
        )
        logprobs = self._model.annotate(batch, fields(LOGPROBS_OLD))[LOGPROBS_OLD]
        sums = segment_sum(logprobs.double(), batch[SEQ], count * len(heads))
        found: list[list[float]] = sums.exp().view(-1, count).tolist()
        return found


class Layout:
    """How a conversation becomes tokens of a model, and what follows it if a label does.

    labels: the tokens of each label, behind `asked`. Raises UserError for a chat template that cannot be used.
    """

    def __init__(self, spec: menu.Judge, origin: str) -> None:
        self._chat = Chat(origin, WHERE)
        prefix = prompts.PREFIX[spec.form] if spec.prefix is None else spec.prefix
        # Behind a word or a colon comes a blank, which is a part of the label's token.
        blank = " " if prefix and (prefix[-1].isalnum() or prefix[-1] in ":.,") else ""
        ending = self._chat.frame(("user", "assistant", "user") if spec.reasoning else ("user",))[-1]
        spelled = [self._chat.ids(f"{ending}{prefix}{blank}{label}") for label in spec.labels]
        shared = next(
            (at for at, tokens in enumerate(zip(*spelled, strict=False)) if len(set(tokens)) > 1),
            min(map(len, spelled)) - 1,
        )
        self._end = spelled[0][:shared]
        self.labels = [tokens[shared:] for tokens in spelled]

    def asked(self, conversation: Sequence[Message]) -> list[int]:
        """A conversation up to where the verdict stands."""
        return [*self._chat.said(conversation), *self._end]

    def tokens(self, conversation: list[Message]) -> list[int]:
        """A conversation up to where an answer begins."""
        return self._chat.tokens(conversation)

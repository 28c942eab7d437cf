"""Learning from a stronger model: how far the student is from it, and which completions they are compared on."""

from __future__ import annotations

import random
from typing import Any, Literal, NamedTuple

import anyio.to_thread
import torch

from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    OPPONENT,
    SAMPLES,
    SEEDS,
    SEQ,
    TEACHER_DIVERGENCE,
    TEMPERATURE,
    TOKENS,
    VERSION,
    Batch,
    Text,
)
from truing.groups import part
from truing.run import Run
from truing.stage import LossValue, Term, Weights
from truing_feedback import menu_distill as menu
from truing_tensor.segments import owners, segment_mean
from truing_texts.chat import Chat

WHERE = '[generator] use = "own-or-given"'


def distill(batch: Batch, *, mean: Literal["sequence", "token"]) -> LossValue:
    """The divergence from the teacher: 1/N sum_i 1/L_i sum_t D(p || q)(y_t | x, y_<t) over N completions of L_i tokens
    (arXiv:2306.13649, eq. 2 and 4), or with mean "token" over all tokens alike.

    TEACHER_DIVERGENCE D [token], in nats, with gradient; SEQ [token].
    """
    each = batch[TEACHER_DIVERGENCE]
    if mean == "token":
        return LossValue({"distill": Term(each.sum(), "token")})
    count = int(batch[SEQ].max()) + 1 if len(batch[SEQ]) else 0
    return LossValue({"distill": Term(segment_mean(each, batch[SEQ], count).sum(), "seq")})


class Written(NamedTuple):
    """A completion and who wrote it."""

    text: Text
    tokens: list[int]
    finish: str
    given: bool


class OwnOrGiven:
    """Lets the model write for some prompts, and hands on what others came with."""

    def __init__(self, spec: menu.OwnOrGiven, run: Run) -> None:
        self._spec = spec
        self._run = run
        self._generator = spec.generator.build(run)
        self._chat: Chat | None = None
        self._version = 0

    async def sync_weights(self, weights: Weights) -> None:
        """Write with these weights from now on."""
        self._chat = self._chat or await anyio.to_thread.run_sync(Chat, weights.origin, WHERE)
        self._version = weights.version
        await self._generator.sync_weights(weights)

    async def generate(self, batch: Batch) -> Batch:
        """Every prompt with completions of the model's own or with the one it came with; OPPONENT [seq] is 1 for
        those. Raises what the generator raises."""
        own = [at for at in range(len(batch[IDS])) if self._own(batch, at)]
        found = {at: [self._known(batch[ANSWERS][at])] for at in set(range(len(batch[IDS]))) - set(own)}
        if own:
            written = await self._generator.generate(part(batch, own))
            sizes: list[int] = torch.bincount(written[SEQ], minlength=len(written[GROUP])).tolist()
            tokens = [each.tolist() for each in written[TOKENS].split(sizes)]
            told = zip(written[GROUP].tolist(), written[COMPLETIONS], tokens, written[FINISH], strict=True)
            for group, text, some, finish in told:
                found.setdefault(own[group], []).append(Written(text, some, finish, given=False))
        return self._laid_out(batch, [(at, each) for at in sorted(found) for each in found[at]])

    def _own(self, batch: Batch, at: int) -> bool:
        """Whether the model writes for this prompt: by the run's seed and where the phase stands."""
        if SAMPLES in batch or TEMPERATURE in batch:
            return True
        seed = self._run.seed_for("own-or-given", batch[IDS][at], batch[SEEDS][at])
        return random.Random(seed).random() < self._spec.own

    def _known(self, answer: Text) -> Written:
        assert self._chat, "weights come before prompts"
        said: Any = answer if isinstance(answer, str) else answer[-1]["content"]
        return Written(answer, [*self._chat.ids(said, plain=True), self._chat.end], "end", given=True)

    def _laid_out(self, batch: Batch, flat: list[tuple[int, Written]]) -> Batch:
        kept = {key: value for key, value in batch.items() if key.dims in ("", "group", "prompt_token")}
        return Batch(kept).put_all(
            {
                GROUP: torch.tensor([at for at, _ in flat], dtype=torch.int64),
                COMPLETIONS: [each.text for _, each in flat],
                TOKENS: torch.tensor([token for _, each in flat for token in each.tokens], dtype=torch.int64),
                SEQ: owners([len(each.tokens) for _, each in flat]),
                FINISH: [each.finish for _, each in flat],
                VERSION: torch.full((len(flat),), self._version, dtype=torch.int64),
                OPPONENT: torch.tensor([each.given for _, each in flat], dtype=torch.int64),
            }
        )

"""A world in which the chance of every step is known: a solution is right as long as no step of it is `x`.

Whoever writes goes on with `g` with one probability and with `x` otherwise, so from a prefix without `x` with m steps
to go a solution comes out right with the m-th power of that, and from one with an `x` never.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from msgspec import Meta

from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
    Fields,
    fields,
)
from truing.run import Run
from truing.stage import GeneratorSpec, ScorerSpec, Weights
from truing_model.scratch import byte_tokenizer
from truing_tensor.segments import owners

BYTES = byte_tokenizer()


class Writer(GeneratorSpec, frozen=True, kw_only=True):
    """Writes `steps` steps, the first of them `begins`."""

    name: ClassVar[str] = "world"
    target: ClassVar[str] = "tests.process.world:World"

    samples: Annotated[int, Meta(description="solutions of a prompt")] = 4
    steps: Annotated[int, Meta(description="steps of a solution")] = 4
    good: Annotated[float, Meta(description="chance that a step is right")] = 0.7
    begins: Annotated[list[str], Meta(description="solutions that are given, in turn, before any is drawn")] = []
    cuts: Annotated[bool, Meta(description="whether solutions end without an end token")] = False

    def requires(self) -> Fields:
        return fields(IDS, PROMPTS, PROMPT_TOKENS, PROMPT_GROUP)

    def provides(self) -> Fields:
        return fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH)


class Judge(ScorerSpec, frozen=True, kw_only=True):
    """1 for a solution without `x`."""

    name: ClassVar[str] = "world"
    target: ClassVar[str] = "tests.process.world:Truth"

    def requires(self) -> Fields:
        return fields(COMPLETIONS)

    def provides(self) -> Fields:
        return fields(SCORES)


class World:
    """Writes from tokens alone. asked: the ids of the prompts of every call."""

    def __init__(self, spec: Writer, run: Run) -> None:
        self._spec = spec
        self._run = run
        self._given = list(spec.begins)
        self.asked: list[list[str]] = []

    async def sync_weights(self, weights: Weights) -> None:
        pass

    async def generate(self, batch: Batch) -> Batch:
        self.asked.append(batch[IDS])
        sizes = torch.bincount(batch[PROMPT_GROUP], minlength=len(batch[IDS])).tolist()
        texts = [BYTES.decode(part.tolist()) for part in batch[PROMPT_TOKENS].split(sizes)]
        written = [
            self._write(name, text, at) for name, text in zip(batch[IDS], texts, strict=True) for at in self._all
        ]
        end = [] if self._spec.cuts else [BYTES.eos_token_id]
        tokens = [[*BYTES(text, add_special_tokens=False)["input_ids"], *end] for text in written]
        return batch.put_all(
            {
                GROUP: owners([self._spec.samples] * len(texts)),
                COMPLETIONS: written,
                TOKENS: torch.tensor([token for part in tokens for token in part]),
                SEQ: owners([len(part) for part in tokens]),
                FINISH: ["length" if self._spec.cuts else "end"] * len(written),
            }
        )

    @property
    def _all(self) -> range:
        return range(self._spec.samples)

    def _write(self, name: str, text: str, sample: int) -> str:
        """The steps that a prompt, which ends with `?`, lacks yet."""
        if self._given and text.endswith("?"):
            return self._given.pop(0)
        chance = random.Random(self._run.seed_for(name, sample))
        count = self._spec.steps - text.partition("?")[2].count("\n")
        return "\n".join("g" if chance.random() < self._spec.good else "x" for _ in range(count))


class Truth:
    """Knows which solutions are right. seen: every text it was shown."""

    def __init__(self, spec: Judge, run: Run) -> None:
        self.seen: list[str] = []

    async def score(self, batch: Batch) -> Batch:
        texts: Sequence[str] = batch[COMPLETIONS]  # type: ignore[assignment]
        self.seen += texts
        assert torch.equal(batch[GROUP], batch[GROUP].sort().values)
        return batch.put(SCORES, torch.tensor([float("x" not in text) for text in texts]))

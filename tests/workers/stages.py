"""A generator for processes of its own: what it writes says what it was given, and it does as it is told by files.

It looks into the folder of its run: while there is `hold` it does not answer, while there is `slow` it does not come to
an end of taking weights, and both mark that they have begun. A prompt's id may be what is to happen: `user`, `odd`,
`deaf` (it does not hear that it is to let go).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio
import torch
from torch import Tensor

from truing.errors import Problem, UserError
from truing.events import Notice
from truing.fields import COMPLETIONS, GROUP, IDS, PROMPTS, SEEDS, SEQ, TOKENS, VERSION, Batch, Field, Fields, fields
from truing.run import Run, Stopped
from truing.stage import GeneratorSpec, Weights

OBJECT = object()
KNOWN: Field[list[object]] = Field("known", "group")


class Obedient(GeneratorSpec, frozen=True, kw_only=True):
    """Does what files say."""

    name: ClassVar[str] = "obedient"
    target: ClassVar[str] = "tests.workers.stages:Writer"

    def requires(self) -> Fields:
        return fields(IDS, PROMPTS)

    def provides(self) -> Fields:
        return fields(COMPLETIONS, GROUP, TOKENS, SEQ, VERSION)


@dataclass(frozen=True)
class Numbers:
    """Weights that are one number each, and those of the reference."""

    version: int
    value: float = 0.0
    held_to: float | None = None
    origin: str = "nowhere"
    size: int = 1000

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        yield "half", torch.full((self.size,), self.value, dtype=torch.bfloat16)
        yield "whole", torch.full((3, 2), self.value)

    def reference(self) -> Numbers:
        assert self.held_to is not None, "nobody was to ask for the reference"
        return Numbers(0, self.held_to, origin="there")


class Writer:
    """Writes its seed, the version, and what it read of the weights and of the reference."""

    def __init__(self, spec: Obedient, run: Run) -> None:
        self._run, self._folder = run, Path(run.folder)
        self._version, self._read, self._held_to = -1, 0, 0

    async def sync_weights(self, weights: Weights) -> None:
        await self._while("slow", "taking")
        if self._version < 0:
            self._held_to = _sum(weights.reference())
        self._read, self._version = _sum(weights), weights.version

    async def generate(self, batch: Batch) -> Batch:
        if "user" in batch[IDS]:
            raise UserError([Problem("here", "it is wrong", "mend it"), Problem("there", "it is, too")])
        if "odd" in batch[IDS]:
            raise KeyError("odd")
        print("somebody asked", file=sys.stderr, flush=True)
        self._run.bus.publish(Notice(text=f"asked for {batch[IDS][0]}"))
        version = self._version
        if "deaf" in batch[IDS]:
            await self._run.on_device(_sleep)
        await self._while("hold", "writing")
        told = [[seed, version, self._read, self._held_to] for seed in batch.get(SEEDS, [0] * len(batch[IDS]))]
        return batch.put_all(
            {
                COMPLETIONS: [f"{prompt}!" for prompt in batch[PROMPTS]],
                GROUP: torch.arange(len(told)),
                TOKENS: torch.tensor(told).flatten(),
                SEQ: torch.arange(len(told)).repeat_interleave(4),
                VERSION: torch.full((len(told),), version),
            }
        )

    async def _while(self, name: str, mark: str) -> None:
        while (self._folder / name).exists():
            (self._folder / mark).touch()
            await anyio.sleep(0.01)
            if self._run.stop:
                raise Stopped


def _sum(weights: Weights) -> int:
    return int(sum(value.double().mean().item() for _, value in weights.tensors()))


def _sleep() -> None:
    import time

    time.sleep(60)


def asked(*names: str) -> Batch:
    """A batch of prompts with seeds, and something that only the run knows of."""
    values: dict[Any, Any] = {IDS: list(names), PROMPTS: [f"say {name}" for name in names]}
    return Batch({**values, SEEDS: list(range(7, 7 + len(names))), KNOWN: [OBJECT] * len(names)})

"""Small models to sample from, and what the tests ask of an engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from truing.bus import Bus
from truing.fields import GROUP, IDS, PROMPT_GROUP, PROMPT_TOKENS, PROMPTS, SEQ, TOKENS, Batch
from truing.run import Run
from truing_generate.plugin import Engine


class FromFolder:
    """The weights of a folder. scaled: what every matrix is multiplied by. held_to: its reference."""

    def __init__(
        self,
        folder: Path,
        version: int = 0,
        scaled: float = 1.0,
        without: str = "",
        held_to: FromFolder | None = None,
    ) -> None:
        self.version = version
        self.origin = str(folder)
        self._scaled = scaled
        self._without = without
        self._held_to = held_to

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        for name, value in AutoModelForCausalLM.from_pretrained(self.origin).named_parameters():
            if name != self._without:
                yield name, value * self._scaled if value.ndim == 2 else value

    def reference(self) -> FromFolder:
        assert self._held_to, "nobody was to ask for the reference"
        return self._held_to


def run_in(tmp_path: Path, seed: int = 0) -> Run:
    return Run("test", tmp_path, seed, Bus())


def asked(*texts: str) -> Batch:
    tokens = [prompt_of(text) for text in texts]
    return Batch(
        {
            IDS: [f"id of {text}" for text in texts],
            PROMPTS: list(texts),
            PROMPT_TOKENS: torch.tensor([token for some in tokens for token in some]),
            PROMPT_GROUP: torch.tensor([at for at, some in enumerate(tokens) for _ in some]),
        }
    )


def prompt_of(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()]


def engine_of(run: Run, **options: Any) -> Any:
    return Engine(**{"dtype": "fp32", "device": "cpu", "max_new_tokens": 12, "samples": 3, **options}).build(run)


def generated(folder: Path, run: Run, batch: Batch, weights: Any = None, **options: Any) -> Batch:
    async def go() -> Batch:
        engine = engine_of(run, **options)
        await engine.sync_weights(weights or FromFolder(folder))
        return await engine.generate(batch)

    return anyio.run(go)


def by_completion(batch: Batch, key: Any = TOKENS) -> list[list[Any]]:
    parts = batch[key].split(torch.bincount(batch[SEQ], minlength=len(batch[GROUP])).tolist())
    return [part.tolist() for part in parts]

"""What the tests of generators share: prompts, a run that remembers what it was told, and a server that is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import write_family
from torch import Tensor
from transformers import AutoModelForCausalLM

from truing.bus import Bus
from truing.events import Event, Notice
from truing.fields import IDS, PROMPT_GROUP, PROMPT_TOKENS, PROMPTS, Batch
from truing.run import Run
from truing_generate import cache

from .fake import FakeServer


def asked(*prompts: str, ids: list[str] | None = None) -> Batch:
    """A batch of prompts, a token for every character."""
    return Batch(
        {
            IDS: ids or [f"p{number}" for number in range(len(prompts))],
            PROMPTS: list(prompts),
            PROMPT_TOKENS: torch.tensor([ord(letter) for prompt in prompts for letter in prompt], dtype=torch.int64),
            PROMPT_GROUP: torch.tensor([at for at, prompt in enumerate(prompts) for _ in prompt], dtype=torch.int64),
        }
    )


class Told:
    """A run and the notices it published."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.events: list[Event] = []
        self.run = Run(name="test", folder=folder, seed=seed, bus=Bus(keep=self.events.append))

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "a-run")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a small model of a family, its logits far enough apart to have favourites."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"engine-{family}")
            write_family(family, made[family])
            model: Any = AutoModelForCausalLM.from_pretrained(made[family])
            with torch.no_grad():
                for value in model.parameters():
                    if value.ndim == 2:
                        value *= 5.0
            model.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


Watched = tuple[list[int], list[int]]
"""How many prompt tokens each pass of prompts had, and how many seats each step of completions."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What goes through the models from now on."""
    prefilled: list[int] = []
    steps: list[int] = []
    prefill, decode = cache.Prefill.__call__, cache.Decode.__call__

    def watch_prefill(self: Any, layer: int, *sides: Any) -> Tensor:
        if layer == 0:
            prefilled.append(sum(prompt.length for prompt in self.prompts))
        return prefill(self, layer, *sides)

    def watch_decode(self: Any, layer: int, *sides: Any) -> Tensor:
        if layer == 0:
            steps.append(sum(len(range(*m.indices(99))) if isinstance(m, slice) else len(m) for _, m in self.prompts))
        return decode(self, layer, *sides)

    monkeypatch.setattr(cache.Prefill, "__call__", watch_prefill)
    monkeypatch.setattr(cache.Decode, "__call__", watch_decode)
    return prefilled, steps

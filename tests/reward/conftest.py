"""A small model to score with, and verifiers asked plainly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import torch
from tests.model.conftest import write_family

from truing.bus import Bus
from truing.events import Event, Notice
from truing.fields import COMPLETIONS, GROUP, SCORES, Batch
from truing.run import Run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Llama."""
    folder = tmp_path_factory.mktemp("llama")
    write_family("llama", folder)
    return folder


class Found(NamedTuple):
    """scores [seq]; counts: so far, of reasons not to judge; told: notices of this call."""

    scores: list[float]
    counts: dict[str, int]
    told: list[str]


class Judged:
    """A verifier that is asked for scores of texts, all in one group unless `groups` says otherwise."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.bus = Recorder()
        self.scorer = spec.build(Run("test", Path(), 0, self.bus))

    def __call__(self, truth: Any, texts: Sequence[str], groups: Sequence[int] = ()) -> Found:
        batch = Batch({COMPLETIONS: list(texts), GROUP: torch.tensor(list(groups) or [0] * len(texts))})
        if self.spec.truth is not None:
            batch = batch.put(self.spec.truth, truth if isinstance(truth, list) else [truth])
        self.bus.said.clear()
        scores = anyio.run(self.scorer.score, batch)[SCORES]
        assert scores.dtype == torch.float32
        return Found(scores.tolist(), dict(self.scorer.counts), list(self.bus.said))


class Recorder(Bus):
    """A bus that keeps what people are told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def publish(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.said.append(event.text)


def judged(spec: Any, truth: Any, texts: Sequence[str], groups: Sequence[int] = ()) -> Found:
    """What a verifier says, made for this one time."""
    return Judged(spec)(truth, texts, groups)

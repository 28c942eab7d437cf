"""Solutions in steps, a small model to judge them, and a run to build in."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.model.conftest import write_family

from truing.bus import Bus
from truing.fields import STEP_INDEX, STEP_LABELS, STEP_SEQ, STEPS, Group
from truing.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("test", tmp_path, 0, Bus())


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Llama that reads bytes."""
    folder = tmp_path_factory.mktemp("llama")
    write_family("llama", folder)
    return folder


def solutions(name: str, prompt: str, *each: list[str], labels: list[list[float | None]] | None = None) -> Group:
    """A problem with solutions in steps. labels: of every step of each; None for one that is not judged."""
    said = labels or [[float(len(step) % 2) for step in steps] for steps in each]
    judged = [(seq, at, label) for seq, some in enumerate(said) for at, label in enumerate(some) if label is not None]
    extra = {
        STEPS: [list(steps) for steps in each],
        STEP_SEQ: [seq for seq, _, _ in judged],
        STEP_INDEX: [index for _, index, _ in judged],
        STEP_LABELS: [label for _, _, label in judged],
    }
    return Group(id=name, prompt=prompt, completions=["\n".join(steps) for steps in each], extra=extra)


def some() -> list[Group]:
    """Solutions of unequal numbers of steps, some of them not judged."""
    return [
        solutions("one", "1+1=", ["two", "so 2"], ["three"]),
        solutions("two", "a long question", ["first", " second", "third."], labels=[[1.0, None, 0.0]]),
        solutions("three", "x", ["a", "b", "c", "d"], ["e"], ["f", "g"], labels=[[1, 1, 0.25, None], [None], [0, 1]]),
    ]

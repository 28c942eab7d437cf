"""Launches of tiny recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parallel.launching import Launched

# What every process needs is imported once, before it is forked.
for module in ("peft", "reasoning_gym", "truing_generate.engine", "truing_model.following", "truing_model.rewards"):
    pytest.importorskip(module)

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launched]:
    """`truing` in so many processes, its runs in `runs`."""

    def start(count: int, name: str, *more: str, runs: str = "runs", **before: Callable[[int], object]) -> Launched:
        where = ["--folder", str(tmp_path / runs), "--quiet", "--processes", str(count)]
        return Launched(tmp_path, count, ["run", str(RECIPES / f"{name}.toml"), *where, *more], **before)

    return start

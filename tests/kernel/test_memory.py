"""A loss that remembers: what it saw of a step counts once the step is taken, and survives a resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from truing.fields import IDS, LOGPROBS, Batch, Fields, fields
from truing.journal import MEMORY
from truing.stage import LossSpec, LossValue, Term
from truing.testing import TOY_RECIPE, TOYS, recipe, run_recipe


class Counting:
    """Grows with every step that was taken."""

    def __init__(self) -> None:
        self.steps, self.taken, self.seen = 0, 0, list[str]()
        self._met: list[str] = []

    def __call__(self, batch: Batch) -> LossValue:
        self._met = list(batch[IDS])
        total: Any = sum(batch[LOGPROBS]) * (1 + self.taken / self.steps)
        return LossValue({"counting": Term(total, "group")})

    def begin(self, steps: int) -> None:
        self.steps = steps

    def learned(self) -> None:
        self.taken += 1
        self.seen += self._met

    def kept(self) -> Mapping[str, Any]:
        return {"taken": self.taken, "seen": self.seen}

    def restore(self, kept: Mapping[str, Any]) -> None:
        self.taken, self.seen = kept["taken"], kept["seen"]


class CountingSpec(LossSpec, frozen=True, kw_only=True):
    """A loss that counts its steps."""

    name: ClassVar[str] = "counting"
    target: ClassVar[str] = f"{__name__}:Counting"
    remembers: ClassVar[bool] = True

    def requires(self) -> Fields:
        return fields(LOGPROBS, IDS)

    @classmethod
    def implementation(cls) -> Any:
        return Counting


def test_a_loss_remembers_the_steps_that_were_taken_and_no_others_through_a_failure_and_a_resume(
    tmp_path: Path,
) -> None:
    text = TOY_RECIPE.replace('[loss]\nuse = "toy"', '[loss]\nuse = "counting"') + "checkpoint_every = 1\n"
    straight = run_recipe(recipe(text, *TOYS, CountingSpec), tmp_path / "straight")
    failing = text.replace('[model]\nuse = "toy"', '[model]\nuse = "toy"\nfail_at = 3')
    with pytest.raises(RuntimeError):
        run_recipe(recipe(failing, *TOYS, CountingSpec), tmp_path / "broken")
    (folder,) = (tmp_path / "broken").iterdir()
    kept = msgspec.json.decode((folder / "checkpoints" / "step-000002" / MEMORY).read_bytes())
    assert kept["taken"] == 2
    assert len(kept["seen"]) == 4
    again = run_recipe(recipe(text, *TOYS, CountingSpec), folder, resumed=True)
    for name in (MEMORY, "toy.json"):
        assert (again.folder / "model" / name).read_bytes() == (straight.folder / "model" / name).read_bytes()

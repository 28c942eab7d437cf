"""Every recipe whose models can share learns in two processes what it learns in one.

TRUING_RECIPES=all python -m pytest tests/parallel/test_recipes.py      or names: TRUING_RECIPES=ppo,kto

Losses are the same to 1e-5 over the first steps of the first phase, and to 1e-3 from there on: rounding grows where it
learns from itself. Pairs, for one, do not say where the zero of a reward is: in that direction a gradient is rounding,
Adam makes steps of it, and what is scored then is moved by as much. Behind a phase that makes data losses are not held
against each other: one token that is sampled otherwise is another label, also in one process that cuts its steps
elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest
from tests.parallel.conftest import RECIPES
from tests.parallel.launching import Launched, metrics, run_folder

from truing.plugins import discover
from truing.recipe import load

ASKED = os.environ.get("TRUING_RECIPES", "")
FIRST = 16
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml")) if ASKED == "all" else ASKED.split(",")

pytestmark = pytest.mark.skipif(not ASKED, reason="set TRUING_RECIPES to all, or to names of tiny recipes")


def shared(name: str, kind: str) -> list[str]:
    """The options with which all models of a recipe that can share do."""
    recipe = load(RECIPES / f"{name}.toml", discover())
    found: list[str] = []
    for phase in recipe.phases:
        if phase.optimizer and hasattr(phase.model, "parallel"):
            table = f"phase.{phase.name}." if len(recipe.phases) > 1 else ""
            found += ["--set", f"{table}model.parallel.kind={kind}"]
    return found


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_learns_in_two_processes_what_it_learns_in_one(
    name: str, kind: str, launch: Callable[..., Launched], tmp_path: Path
) -> None:
    options = shared(name, kind)
    if not options:
        pytest.skip("none of its models can share")
    for count in (1, 2):
        launched = launch(count, name, *options, runs=f"{count}")
        assert launched.ends(600) == [0] * count, launched.said
    expected, found = (metrics(run_folder(tmp_path / f"{count}")) for count in (1, 2))
    assert found.keys() == expected.keys()
    phases = load(RECIPES / f"{name}.toml", discover()).phases
    alike = [phase.name for phase in takewhile(lambda phase: not phase.makes_data, phases)]
    for (kind_of, phase, step), numbers in expected.items():
        if "loss" in numbers and phase in alike:
            near = 1e-5 if phase == alike[0] and step <= FIRST else 1e-3
            of_two = found[kind_of, phase, step]["loss"]
            assert of_two == pytest.approx(numbers["loss"], rel=near, abs=near), (phase, step)

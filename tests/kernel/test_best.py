"""The best look at the holdout: its weights become the model, whatever came after it and whatever interrupted it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.cli.summary import summarise
from truing.errors import RunFailed, UserError
from truing.events import BestKept, Evaluated, ModelSaved, Notice
from truing.recipe import Recipe
from truing.testing import Ran, run_recipe
from truing.until import Best, Mark

MakeRecipe = Callable[..., Recipe]
TEXT = """
[source]
use = "toy"
[holdout]
use = "toy"
groups = 2
[model]
use = "toy"
fail_at = {fail_at}
[optimizer]
use = "toy"
rate = {rate}
[loss]
use = "toy"
[loop]
batch = 2
steps = 8
evaluate_every = 1
checkpoint_every = {every}
best = {{metric = "holdout/loss", larger_is_better = {larger}}}
"""


def text(*, rate: float, larger: str = "true", every: int = 0, fail_at: int = 0) -> str:
    """Of a toy whose loss at step n is (1 - rate) ** n."""
    return TEXT.format(rate=rate, larger=larger, every=every, fail_at=fail_at)


def exported(ran: Ran) -> dict[str, Any]:
    return json.loads((ran.folder / "model" / "toy.json").read_text())


def bests(ran: Ran) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in ran.events if isinstance(event, BestKept)]


def test_the_model_is_that_of_the_best_look_and_not_of_the_last_step(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(text(rate=1.5, larger="false")), folder)
    assert [event.metrics["loss"] for event in ran.events if isinstance(event, Evaluated)][:3] == [1, -0.5, 0.25]
    assert bests(ran) == [(0, 1.0), (1, -0.5)]
    assert (exported(ran)["version"], exported(ran)["weight"]) == (1, -0.5)
    assert [event.step for event in ran.events if isinstance(event, ModelSaved)] == [1]
    (told,) = [event.text for event in ran.events if isinstance(event, Notice)]
    assert told == "the model is that of step 1, the best look: holdout/loss was -0.5"
    best = summarise(ran.events).phases[0].best
    assert best
    assert (best.step, best.metric) == (1, "holdout/loss")
    assert not list(ran.folder.rglob("best"))


def test_where_the_last_look_is_the_best_the_model_is_the_last_steps(recipe: MakeRecipe, folder: Path) -> None:
    ran = run_recipe(recipe(text(rate=0.5, larger="false")), folder)
    assert bests(ran)[-1][0] == exported(ran)["version"] == 8
    assert not [event for event in ran.events if isinstance(event, Notice)]


def test_a_resume_knows_the_best_look_of_its_checkpoint_and_not_one_that_came_after_it(
    recipe: MakeRecipe, folder: Path
) -> None:
    with pytest.raises(RuntimeError):
        run_recipe(recipe(text(rate=3.0, every=3, fail_at=6)), folder)
    (broken,) = folder.iterdir()
    assert json.loads((broken / "best" / "toy.json").read_text())["version"] == 4
    ran = run_recipe(recipe(text(rate=1e-6, every=3)), broken, resumed=True)
    assert bests(ran) == [(0, 1.0), (2, 4.0), (4, 16.0)]
    assert (exported(ran)["version"], exported(ran)["weight"]) == (2, 4.0)
    best = summarise(ran.events).phases[0].best
    assert best
    assert best.step == 2


def test_a_best_look_that_rots_costs_the_checkpoint_that_knew_it(recipe: MakeRecipe, folder: Path) -> None:
    with pytest.raises(RuntimeError):
        run_recipe(recipe(text(rate=3.0, every=1, fail_at=6)), folder)
    (broken,) = folder.iterdir()
    # The best look of step 4 is one file under three names.
    (broken / "checkpoints" / "step-000005" / "best" / "toy.json").write_text("rotten")
    with pytest.raises(RunFailed, match=r"no checkpoint is whole.*best/toy.json is not what was written"):
        run_recipe(recipe(text(rate=3.0)), broken, resumed=True)


@pytest.mark.parametrize(
    ("value", "than", "larger", "better"),
    [
        (1.0, None, True, True),
        (1.0, Mark(0, 1.0), True, False),
        (2.0, Mark(0, 1.0), True, True),
        (2.0, Mark(0, 1.0), False, False),
        (0.5, Mark(0, 1.0), False, True),
        (math.nan, None, True, False),
    ],
)
def test_a_look_is_better_or_it_is_not(value: float, than: Mark | None, larger: bool, better: bool) -> None:
    best = Best(metric="holdout/x", larger_is_better=larger)
    assert best.better(3, {"x": value}, than) == (Mark(3, value) if better else None)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"holdout/loss"', '"loss"', 'write "holdout/loss"'),
        ('[holdout]\nuse = "toy"\ngroups = 2\n', "", "there is none"),
    ],
)
def test_a_best_look_that_nobody_takes_is_refused(recipe: MakeRecipe, old: str, new: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        recipe(text(rate=0.5).replace(old, new).replace("evaluate_every = 1" if not new else "\x00", ""))


def test_a_metric_that_nobody_reports_ends_the_run_before_its_first_step(recipe: MakeRecipe, folder: Path) -> None:
    with pytest.raises(RunFailed, match=r'loop.best waits for "holdout/lost", and what is reported is loss'):
        run_recipe(recipe(text(rate=0.5).replace("holdout/loss", "holdout/lost")), folder)

"""A phase that has learned enough: at which step it ends, and that a resume ends it there, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.errors import RunFailed, UserError
from truing.events import Evaluated, ModelSaved, Notice, StepDone
from truing.recipe import Recipe, read
from truing.run import Stop
from truing.testing import Ran, run_recipe
from truing.until import Until, Watch

MakeRecipe = Callable[..., Recipe]
TEXT = """
[source]
use = "toy"
[holdout]
use = "toy"
groups = 2
[model]
use = "toy"
[optimizer]
use = "toy"
[loss]
use = "toy"
[loop]
batch = 2
epochs = 5
evaluate_every = 2
"""


def ended(recipe: MakeRecipe, folder: Path, until: str, **more: Any) -> Ran:
    return run_recipe(recipe(f"{TEXT}{until}\n"), folder, **more)


def steps(ran: Ran) -> list[int]:
    return [event.step for event in ran.events if isinstance(event, StepDone)]


def test_a_phase_ends_after_the_step_that_was_enough_and_has_made_its_model(recipe: MakeRecipe, folder: Path) -> None:
    whole = ended(recipe, folder, "")
    losses = [event.metrics["loss"] for event in whole.events if isinstance(event, StepDone)]
    assert len(losses) == 20
    assert losses[6] < losses[5]
    ran = ended(recipe, folder, f'until = [{{metric = "loss", below = {(losses[5] + losses[6]) / 2}}}]')
    assert (ran.status, steps(ran)) == ("finished", list(range(1, 8)))
    assert [event.step for event in ran.events if isinstance(event, Evaluated)] == [0, 2, 4, 6, 7]
    assert any(isinstance(event, ModelSaved) for event in ran.events)
    (told,) = [event.text for event in ran.events if isinstance(event, Notice)]
    assert told.startswith("enough after step 7: loss is ")


def test_the_holdout_is_looked_at_once_where_it_was_what_was_enough(recipe: MakeRecipe, folder: Path) -> None:
    ran = ended(recipe, folder, 'until = [{metric = "holdout/loss", above = 0.0}]')
    assert steps(ran) == [1, 2]
    assert [event.step for event in ran.events if isinstance(event, Evaluated)] == [0, 2]


def test_a_resumed_phase_ends_where_it_would_have_ended(recipe: MakeRecipe, folder: Path) -> None:
    until = 'until = [{metric = "holdout/loss", patience = 4}]'
    whole = ended(recipe, folder, until)
    assert steps(whole)[-1] == 8
    stop = Stop()

    class Stopping:
        async def open(self) -> None: ...

        async def observe(self, event: Any) -> None:
            if isinstance(event, StepDone) and event.step == 5:
                stop.ask("enough for today")

        async def close(self) -> None: ...

    first = ended(recipe, folder, until, stop=stop, extra=[Stopping()])
    assert first.status == "interrupted"
    second = run_recipe(recipe(f"{TEXT}{until}\n"), first.folder, resumed=True)
    assert (second.status, steps(second)[-1]) == ("finished", 8)


@pytest.mark.parametrize(
    ("condition", "values", "at"),
    [
        (Until(metric="x", above=1.0), [0.5, 1.0, 1.1], 2),
        (Until(metric="x", below=1.0), [1.5, 1.0, 0.9], 2),
        (Until(metric="x", patience=2), [1.0, 2.0, 2.0, 1.9, 3.0], 3),
        (Until(metric="x", patience=2, larger_is_better=False), [3.0, 2.0, 2.5, 1.0, 1.5, 1.0], 5),
    ],
)
def test_a_condition_holds_at_one_value_and_not_before(condition: Until, values: list[float], at: int) -> None:
    watch = Watch([condition], {})
    told = [watch.enough({"x": value}, held_out=False) for value in values]
    assert [bool(text) for text in told] == [place == at for place in range(len(values))]


def test_what_was_watched_goes_on_after_a_resume() -> None:
    condition = Until(metric="x", patience=2)
    watch = Watch([condition], {})
    watch.enough({"x": 1.0}, held_out=False)
    watch.enough({"x": 0.5}, held_out=False)
    assert Watch([condition], watch.watched).enough({"x": 0.6}, held_out=False)


def test_a_metric_that_nobody_reports_ends_the_run_and_names_those_there_are(recipe: MakeRecipe, folder: Path) -> None:
    with pytest.raises(RunFailed, match=r'waits for "holdout/lost", and what is reported is .*loss'):
        ended(recipe, folder, 'until = [{metric = "holdout/lost", above = 1.0}]')


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ('until = [{metric = "loss"}]', 'loop.until on "loss" has no condition'),
        ('until = [{metric = "loss", above = 1.0, patience = 2}]', 'loop.until on "loss" has above and patience'),
        ('until = [{metric = "loss", abov = 1.0}]', "unknown field `abov`"),
    ],
)
def test_a_condition_that_is_none_is_refused(loop: str, told: str, recipe: MakeRecipe) -> None:
    with pytest.raises(UserError) as error:
        recipe(f"{TEXT}{loop}\n")
    (problem,) = error.value.problems
    assert told in problem.what
    assert problem.where == "recipe.toml:17"


def test_nobody_waits_for_a_holdout_that_nobody_looks_at(plugins: Any) -> None:
    text = TEXT.replace("evaluate_every = 2", "").replace('[holdout]\nuse = "toy"\ngroups = 2\n', "")
    with pytest.raises(UserError, match="nobody looks"):
        read(f'{text}until = [{{metric = "holdout/loss", above = 1.0}}]\n', "r.toml", plugins)

"""Do the parts fit together? What each stage needs, folded along the way of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from truing.check import wanted
from truing.errors import Problem, UserError
from truing.fields import CHOSEN, LOGPROBS, REJECTED
from truing.recipe import Recipe

MakeRecipe = Callable[..., Recipe]

PARTS = '[model]\nuse = "{model}"\n[optimizer]\nuse = "toy"\n[loss]\nuse = "{loss}"\n'


def one(source: str, loss: str, more: str = "", model: str = "toy") -> str:
    return f'[source]\nuse = "rows"\npath = "x"\n{source}\n' + PARTS.format(model=model, loss=loss) + more


def phases(**paths: str) -> str:
    text = ""
    for name, path in paths.items():
        for table, use in (("source", "toy"), ("optimizer", "toy"), ("loss", "toy"), ("model", "phased")):
            text += f'[phase.{name}.{table}]\nuse = "{use}"\n'
        text += f'path = "{path}"\n'
    return text


def told(recipe: MakeRecipe, text: str) -> list[Problem]:
    with pytest.raises(UserError) as error:
        recipe(text)
    return error.value.problems


def test_a_loss_that_needs_pairs_is_refused_demonstrations_and_says_how_to_get_pairs(recipe: MakeRecipe) -> None:
    problems = told(recipe, one("", "pairs"))
    assert [(problem.where, problem.what) for problem in problems] == [
        ("recipe.toml:9", 'loss "pairs" needs `chosen`, and no earlier stage provides it'),
        ("recipe.toml:9", 'loss "pairs" needs `rejected`, and no earlier stage provides it'),
    ]
    assert all(problem.mend.startswith('[source] use = "rows" with a `chosen` and a') for problem in problems)


def test_what_a_source_provides_depends_on_its_options(recipe: MakeRecipe) -> None:
    assert recipe(one('chosen = "better"', "pairs")).phases[0].source


def test_a_loss_says_why_it_refuses_data_of_the_wrong_form(recipe: MakeRecipe) -> None:
    (problem,) = told(recipe, one('chosen = "better"', "single"))
    assert problem == Problem("recipe.toml:1", 'loss "single" cannot take `chosen`', "map the chosen column alone")


def test_a_holdout_must_give_what_the_source_gives(recipe: MakeRecipe) -> None:
    holdout = '[holdout]\nuse = "rows"\npath = "y"\n'
    problems = told(recipe, one('chosen = "better"', "pairs", holdout))
    assert {problem.where for problem in problems} == {"recipe.toml:11"}
    assert [problem.what for problem in problems] == [
        'loss "pairs" needs `chosen`, and no earlier stage provides it from [holdout]',
        'loss "pairs" needs `rejected`, and no earlier stage provides it from [holdout]',
    ]
    assert recipe(one('chosen = "better"', "pairs", holdout + 'chosen = "better"\n'))


def test_a_field_missing_from_source_and_holdout_is_told_once(recipe: MakeRecipe) -> None:
    problems = told(recipe, one("", "pairs", '[holdout]\nuse = "rows"\npath = "y"\n'))
    assert len(problems) == 2


def test_a_mistake_in_a_table_is_not_followed_by_guesses_about_its_fields(recipe: MakeRecipe) -> None:
    problems = told(recipe, one("chosn = 1", "pairs"))
    assert [problem.what for problem in problems] == ['[source] has no option "chosn"']


def test_every_missing_table_is_named(recipe: MakeRecipe) -> None:
    assert [problem.what for problem in told(recipe, "")] == [
        f"no [{table}] in this recipe" for table in ("source", "model", "optimizer", "loss")
    ]
    assert [
        (problem.where, problem.what) for problem in told(recipe, 'name = "x"\n[phase.sft.model]\nuse = "toy"')
    ] == [("recipe.toml:2", f"no [phase.sft.{table}] in this recipe") for table in ("source", "optimizer", "loss")]


@pytest.mark.parametrize(
    ("paths", "where", "mend"),
    [
        ({"sft": "@sft"}, "recipe.toml:9", "no phase before this one makes a model"),
        ({"sft": "@dpo", "dpo": ""}, "recipe.toml:9", "no phase before this one makes a model"),
        ({"sft": "", "dpo": "@stf"}, "recipe.toml:18", 'did you mean "sft"?'),
        ({"sft": "", "dpo": "@dpo"}, "recipe.toml:18", "known here: sft"),
    ],
)
def test_a_model_can_only_come_from_an_earlier_phase(
    recipe: MakeRecipe, paths: dict[str, str], where: str, mend: str
) -> None:
    (problem,) = told(recipe, phases(**paths))
    assert problem.where == where
    assert problem.what.startswith("no earlier phase called")
    assert problem.mend == mend


def test_an_at_sign_means_a_phase_only_where_a_phase_may_stand(recipe: MakeRecipe) -> None:
    text = phases(sft="", dpo="@sft") + 'note = "@nobody"\n'
    assert [phase.name for phase in recipe(text).phases] == ["sft", "dpo"]


def test_steps_and_epochs_together_are_one_too_many(recipe: MakeRecipe) -> None:
    (problem,) = told(recipe, one("", "toy", "[loop]\nsteps = 3\nepochs = 2\n"))
    assert (problem.where, problem.mend) == ("recipe.toml:13", "keep one of them")


@pytest.mark.parametrize("key", ["steps", "epochs"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_run_of_no_length_is_refused(recipe: MakeRecipe, key: str, value: int) -> None:
    (problem,) = told(recipe, one("", "toy", f"[loop]\n{key} = {value}\n"))
    assert problem == Problem("recipe.toml:12", f"loop.{key}: expected `int` >= 1")


def test_what_a_phase_wants_of_its_model_is_what_its_stages_need(recipe: MakeRecipe) -> None:
    needs = wanted(recipe(one('chosen = "better"', "pairs")).phases[0])
    assert {LOGPROBS, CHOSEN, REJECTED} <= needs

"""TOML to a Recipe: typed, whole, and every problem at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from truing.errors import UserError
from truing.plugins import Loaded, Plugins
from truing.recipe import Recipe, load, read
from truing.testing import TOY_RECIPE

MakeRecipe = Callable[..., Recipe]

PHASED = """
name = "two"
seed = 3

[[observer]]
use = "toy"

[phase.sft.source]
use = "toy"
[phase.sft.model]
use = "phased"
[phase.sft.optimizer]
use = "toy"
[phase.sft.loss]
use = "toy"

[phase.again.source]
use = "toy"
groups = 4
[phase.again.model]
use = "phased"
path = "@sft"
[phase.again.optimizer]
use = "toy"
[phase.again.loss]
use = "toy"
[phase.again.loop]
steps = 2
"""


def refused(recipe: MakeRecipe, text: str, *overrides: str) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as told:
        recipe(text, *overrides)
    return [(problem.where, problem.what) for problem in told.value.problems]


def test_defaults_are_written_out_in_the_resolved_recipe(recipe: MakeRecipe) -> None:
    resolved = recipe(TOY_RECIPE).resolved()
    assert resolved["loss"] == {"use": "toy", "scale": 1.0}
    limits = {"generate_seconds": 3600.0, "score_seconds": 3600.0, "read_seconds": 3600.0}
    failures = {"in_a_row": 8, "share": 0.1, **limits}
    assert resolved["loop"].pop("failures") == failures
    untouched = {"evaluate_every": 0, "checkpoint_every": 0, "keep": 2, "staleness": 0, "refill": 0, "until": []}
    assert resolved["loop"] == {"batch": 2, **untouched}
    assert (resolved["name"], resolved["seed"]) == ("toy", 0)


@pytest.mark.parametrize("text", [TOY_RECIPE, PHASED])
def test_a_resolved_recipe_written_and_read_again_is_the_same_recipe(text: str, recipe: MakeRecipe) -> None:
    first = recipe(text)
    again = recipe(msgspec.toml.encode(first.resolved()).decode())
    assert (again.name, again.seed, again.phases, again.observers) == (
        first.name,
        first.seed,
        first.phases,
        first.observers,
    )
    assert again.digest() == first.digest()


def test_phases_keep_the_order_of_the_file(recipe: MakeRecipe) -> None:
    assert [phase.name for phase in recipe(PHASED).phases] == ["sft", "again"]


def test_comments_and_the_order_of_keys_do_not_change_the_digest(recipe: MakeRecipe) -> None:
    shuffled = """
    [loop]  # how long
    batch = 2
    [loss]
    scale = 1.0
    use = "toy"
    [optimizer]
    use = "toy"
    [model]
    use = "toy"
    [source]
    groups = 8
    use = "toy"
    """
    assert recipe(shuffled, name="toy.toml").digest() == recipe(TOY_RECIPE).digest()


@pytest.mark.parametrize("change", ["loss.scale=2", "seed=1", "loop.steps=3", "name=other"])
def test_any_other_value_is_another_digest(recipe: MakeRecipe, change: str) -> None:
    assert recipe(TOY_RECIPE, change).digest() != recipe(TOY_RECIPE).digest()


def test_the_order_of_phases_is_part_of_the_digest(recipe: MakeRecipe) -> None:
    one, other = PHASED.replace('path = "@sft"\n', ""), ""
    head, sft, again = one.partition("[phase.sft.source]")
    sft, mark, again = again.partition("[phase.again.source]")
    other = head + mark + again + "[phase.sft.source]" + sft
    assert [phase.name for phase in recipe(other).phases] == ["again", "sft"]
    assert recipe(other).digest() != recipe(one).digest()


def test_a_recipe_without_a_name_is_called_as_its_file(tmp_path: Path, plugins: Plugins) -> None:
    path = tmp_path / "my-run.toml"
    path.write_text(TOY_RECIPE.replace('name = "toy"', ""))
    assert load(path, plugins).name == "my-run"


def test_overrides_win_and_are_typed_like_the_file(recipe: MakeRecipe) -> None:
    assert recipe(TOY_RECIPE, "loop.batch=5", "name=five").phases[0].loop.batch == 5
    assert refused(recipe, TOY_RECIPE, "loop.batch=five", "loss.scale=-1", "nonsense") == [
        ("--set loop.batch", "loop.batch: expected `int`, got `str`"),
        ("--set loss.scale", "loss.scale: expected `float` > 0.0"),
        ("--set nonsense", "not of the form table.key=value"),
    ]


def test_all_problems_come_at_once_in_the_order_of_the_file(recipe: MakeRecipe) -> None:
    text = """\
name = "a/b"
sede = 1
[source]
use = "toy"
groups = -1
grups = 3
[model]
use = "toyy"
[loss]
use = "toy"
scale = "much"
[loop]
steps = 0
evaluate_every = 2
[evaluation]
"""
    assert refused(recipe, text) == [
        ("recipe.toml:1", '"a/b" cannot be a folder'),
        ("recipe.toml:1", "no [optimizer] in this recipe"),
        ("recipe.toml:2", 'a recipe has no "sede"'),
        ("recipe.toml:5", "source.groups: expected `int` >= 0"),
        ("recipe.toml:6", '[source] has no option "grups"'),
        ("recipe.toml:8", 'no model called "toyy"'),
        ("recipe.toml:11", "loss.scale: expected `float`, got `str`"),
        ("recipe.toml:13", "loop.steps: expected `int` >= 1"),
        ("recipe.toml:14", "loop.evaluate_every has nothing to look at"),
        ("recipe.toml:15", "no table [evaluation] in a recipe"),
    ]


def test_a_component_that_is_no_table_is_one_problem(recipe: MakeRecipe) -> None:
    text = TOY_RECIPE.replace('[loss]\nuse = "toy"', "").replace("[source]", 'loss = "toy"\n[source]')
    assert refused(recipe, text) == [("recipe.toml:3", "[loss] must be a table")]


def test_a_problem_inside_a_phase_is_told_with_the_whole_path(recipe: MakeRecipe) -> None:
    text = PHASED.replace("groups = 4", 'groups = "4"')
    assert refused(recipe, text) == [("recipe.toml:19", "phase.again.source.groups: expected `int`, got `str`")]


def test_a_plugin_that_did_not_load_is_mentioned_under_an_unknown_name(plugins: Plugins) -> None:
    broken = Plugins(plugins.registry, [Loaded("vllm", "truing-vllm", "1", 0.0, 0, "ImportError: no cuda")], [])
    with pytest.raises(UserError) as told:
        read(TOY_RECIPE.replace('[loss]\nuse = "toy"', '[loss]\nuse = "top"'), "r.toml", broken)
    assert told.value.problems[0].mend == (
        'did you mean "toy"?; plugins that did not load: vllm (see `truing plugins`)'
    )


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_recipe_that_cannot_be_read_is_told(tmp_path: Path, plugins: Plugins, content: bytes | None) -> None:
    path = tmp_path / "r.toml"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read this recipe"):
        load(path, plugins)

"""The recipes that truing ships: each is right, says what it is for, and has a tiny twin."""

from __future__ import annotations

from pathlib import Path

import pytest

from truing.plugins import Plugins, discover
from truing.recipe import load

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
ALL = sorted(RECIPES.rglob("*.toml"))
FULL = [path for path in ALL if "tiny" not in path.parts]
TINY = [path for path in ALL if "tiny" in path.parts]


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES).with_suffix(""))


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return discover()


def test_there_are_recipes() -> None:
    assert {"quickstart", "sft", "dpo"} <= {path.stem for path in FULL}


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_recipe_loads_without_a_problem(path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load(path.relative_to(ROOT), plugins)
    assert recipe.phases


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_recipe_opens_with_what_it_does_what_it_needs_and_how_to_launch_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = "\n".join(lines[: next(at for at, line in enumerate(lines) if not line.startswith("#"))])
    for part in ("# What it does ", "# What it needs ", "# How to launch "):
        assert part in header, f'{name_of(path)} has no "{part.strip("# ")}" in its header'
    assert f"truing run recipes/{name_of(path)}.toml" in header


@pytest.mark.parametrize("path", FULL, ids=name_of)
def test_every_recipe_has_a_tiny_twin_with_the_same_phases_and_losses(path: Path, plugins: Plugins) -> None:
    twin = RECIPES / "tiny" / path.relative_to(RECIPES)
    assert twin.exists(), f"recipes/tiny/{path.name} is missing"

    def shape(some: Path) -> list[tuple[str, str]]:
        return [(phase.name, phase.loss.name if phase.loss else "") for phase in load(some, plugins).phases]

    assert shape(twin) == shape(path)


@pytest.mark.parametrize("path", TINY, ids=name_of)
def test_a_tiny_recipe_is_the_twin_of_a_recipe_and_no_two_runs_share_a_name(path: Path, plugins: Plugins) -> None:
    assert RECIPES.joinpath(path.relative_to(RECIPES / "tiny")).exists()
    names = [load(recipe, plugins).name for recipe in ALL]
    assert len(set(names)) == len(names)

"""Broken recipes and what is said of them. Each opens with what must be said:

    # expect: LINE | text in the message | text in the mend

one comment per problem, and no problem beside those.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from truing.errors import Problem, UserError
from truing.plugins import Plugins, discover
from truing.recipe import load

HERE = Path(__file__).parent / "broken"
RECIPES = sorted(HERE.rglob("*.toml"))
ENOUGH = 30


class Expected(NamedTuple):
    line: int
    what: str
    mend: str

    def fits(self, problem: Problem, path: Path) -> bool:
        where = problem.where == f"{path}:{self.line}"
        return where and self.what in problem.what and self.mend in problem.mend


def expected(path: Path) -> list[Expected]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# expect:")]
    parts = [[part.strip() for part in line.removeprefix("# expect:").split(" |")] for line in lines]
    return [Expected(int(line), what, mend) for line, what, mend in parts]


def name_of(path: Path) -> str:
    return str(path.relative_to(HERE).with_suffix(""))


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return discover()


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths in the recipes begin where they lie."""
    monkeypatch.chdir(HERE)


def test_there_are_many_ways_to_be_wrong() -> None:
    assert len(RECIPES) >= ENOUGH
    assert all(expected(path) for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_broken_recipe_is_told_where_what_and_how_to_mend_it(path: Path, plugins: Plugins) -> None:
    path = path.relative_to(HERE)
    with pytest.raises(UserError) as told:
        load(path, plugins)
    problems, awaited = told.value.problems, expected(path)
    missing = [hope for hope in awaited if not any(hope.fits(problem, path) for problem in problems)]
    surplus = [problem for problem in problems if not any(hope.fits(problem, path) for hope in awaited)]
    said = "\n".join(map(str, problems))
    assert not missing, f"not said: {missing}\nbut:\n{said}"
    assert not surplus, f"said beside what was expected:\n{said}"
    assert [problem.where for problem in problems] == [f"{path}:{hope.line}" for hope in awaited], said


def test_the_command_tells_all_problems_of_all_recipes_at_once_and_ends_with_2() -> None:
    paths = [path.relative_to(HERE) for path in RECIPES]
    command = [sys.executable, "-m", "truing", "check", *map(str, paths)]
    asked = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "Traceback" not in asked.stderr
    said = re.sub(r"\s+", " ", asked.stdout + asked.stderr)
    for path in paths:
        for hope in expected(path):
            assert f"{path}:{hope.line}" in said
            assert re.sub(r"\s+", " ", hope.what) in said
            assert re.sub(r"\s+", " ", hope.mend) in said


def test_an_empty_file_is_told_what_a_recipe_needs(tmp_path: Path, plugins: Plugins) -> None:
    path = tmp_path / "empty.toml"
    path.touch()
    with pytest.raises(UserError) as told:
        load(path, plugins)
    assert [problem.what for problem in told.value.problems] == [
        f"no [{table}] in this recipe" for table in ("source", "model", "optimizer", "loss")
    ]


def test_the_same_problems_are_told_in_the_same_order_in_every_process() -> None:
    answers = set[str]()
    for seed in "123":
        command = [sys.executable, "-m", "truing", "check", "many/a_bad_day.toml"]
        environment = {"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
        asked = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
        answers.add(asked.stdout + asked.stderr)
    assert len(answers) == 1

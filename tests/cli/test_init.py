"""`truing init`: shipped recipes are copied and never overwrite; a plugin's skeleton keeps its own promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHIPPER = """
from pathlib import Path

from truing.plugins import hookimpl


@hookimpl
def truing_recipes():
    return [Path(__file__).parent / "shipped"]
"""


@pytest.fixture
def shipper(here: Path, monkeypatch: pytest.MonkeyPatch, install) -> None:
    """A plugin that ships the recipe `small/toy`."""
    folder = here / "site"
    (folder / "shipped/small").mkdir(parents=True)
    (folder / "shipped/small/toy.toml").write_text("# Teaches a toy to count.\n" + (here / "toy.toml").read_text())
    install(folder, "shipper", SHIPPER)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("shipper")
class TestRecipes:
    def test_a_recipe_of_a_plugin_is_listed_with_its_first_words(self, truing):
        assert {"name": "small/toy", "about": "Teaches a toy to count."} in truing("init", "--json").json
        assert "small/toy" in truing("init").out

    def test_a_copy_lands_here_and_is_fine(self, truing, here):
        (here / "toy.toml").unlink()
        said = truing("init", "small/toy")
        assert said.status == 0, said.err
        assert said.out == "toy.toml\ntruing check toy.toml\n"
        assert truing("check", "toy.toml").status == 0

    def test_a_copy_can_go_elsewhere(self, truing, here):
        assert truing("init", "small/toy", "deep/mine.toml").status == 0
        assert truing("init", "small/toy", "deep").status == 0
        assert {path.name for path in (here / "deep").iterdir()} == {"mine.toml", "toy.toml"}

    def test_what_is_there_stays_unless_forced(self, truing, here):
        (here / "toy.toml").write_text("mine")
        said = truing("init", "small/toy")
        assert said.status == 2
        assert "this is here already" in said.err
        assert (here / "toy.toml").read_text() == "mine"
        assert truing("init", "small/toy", "--force").status == 0
        assert (here / "toy.toml").read_text() != "mine"

    def test_a_recipe_that_does_not_ship_gets_a_hint(self, truing):
        said = truing("init", "small/toi")
        assert said.status == 2
        assert 'did you mean "small/toy"?' in said.err


def test_a_skeleton_passes_its_own_conformance_test(truing, here):
    said = truing("init", "--plugin", "soft-hinge")
    assert said.status == 0, said.err
    folder = here / "truing-soft-hinge"
    text = "\n".join(path.read_text() for path in folder.rglob("*.*") if path.is_file())
    assert "newcomer" not in text.lower()
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "3 passed" in asked.stdout


def test_a_skeleton_has_the_name_it_was_given_once(truing, here):
    truing("init", "--plugin", "truing-soft-hinge", "place")
    assert (here / "place/src/truing_soft_hinge/plugin.py").exists()
    assert 'soft-hinge = "truing_soft_hinge.plugin"' in (here / "place/pyproject.toml").read_text()
    assert "class SoftHinge(LossSpec" in (here / "place/src/truing_soft_hinge/plugin.py").read_text()


def test_a_skeleton_does_not_overwrite(truing, here):
    (here / "place").mkdir()
    (here / "place/thesis.txt").write_text("ten years of work")
    said = truing("init", "--plugin", "hinge", "place")
    assert said.status == 2
    assert list((here / "place").iterdir()) == [here / "place/thesis.txt"]


@pytest.mark.parametrize("name", ["Soft Hinge", "2hinge", "lambda", "truing-"])
def test_a_name_no_package_could_have_is_refused(truing, here, name):
    said = truing("init", "--plugin", name)
    assert said.status == 2
    assert "is no name for a plugin" in said.err
    assert sorted(path.name for path in here.iterdir()) == ["toy.toml"]

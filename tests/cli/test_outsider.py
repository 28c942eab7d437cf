"""A stranger's plugin, from wheel to uninstall: truing and both outsiders are built, installed in an environment of
their own, used, and removed. Nothing there comes from the checkout.

The environment has a pip of its own (the one Python bundles, so no network) and finds third-party packages where this
Python has them: a path file names that folder without reading the path files in it, so an editable truing stays
outside.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTSIDERS = ROOT / "tests/outsider"

Shell = Callable[..., subprocess.CompletedProcess[str]]


def build(source: Path, into: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(into), str(source)]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with truing and both outsiders installed from wheels."""
    folder = tmp_path_factory.mktemp("outsider")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "third-party.pth").write_text("\n".join(packages) + "\n")
    sources = {"truing": ROOT, "hinge": OUTSIDERS / "truing-hinge", "broken": OUTSIDERS / "truing-broken"}
    wheels = [str(build(source, folder / name)) for name, source in sources.items()]
    pip(folder / "venv", "install", "--no-deps", "--no-index", "--force-reinstall", *wheels)
    return folder / "venv"


def pip(environment: Path, *arguments: str) -> None:
    command = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    asked = subprocess.run(command, capture_output=True, text=True, env=clean())
    assert asked.returncode == 0, asked.stdout + asked.stderr


def clean() -> dict[str, str]:
    return {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TRUING_BLOCK", "TRUING_TRACEBACK")
    }


@pytest.fixture
def truing(environment: Path, tmp_path: Path) -> Shell:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin/truing"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean())

    return call


def test_truing_and_the_outsiders_come_from_their_wheels(environment):
    modules = ["truing", "truing_hinge", "truing_tensor"]
    looking = f"import {', '.join(modules)}; print({', '.join(f'{module}.__file__' for module in modules)})"
    asked = subprocess.run([environment / "bin/python", "-c", looking], capture_output=True, text=True, env=clean())
    assert asked.returncode == 0, asked.stderr
    assert all(Path(path).is_relative_to(environment) for path in asked.stdout.split()), asked.stdout


def test_a_strangers_loss_stands_beside_the_built_in_ones(truing):
    listed = {row["name"]: row["plugin"] for row in json.loads(truing("list", "loss", "--json").stdout)}
    assert listed["hinge"] == "hinge"
    assert {"dpo", "sft"} <= listed.keys()
    assert "truing-hinge 0.3.0" in truing("show", "loss", "hinge").stdout


def test_a_broken_plugin_is_named_with_its_reason_and_costs_nothing_else(truing):
    said = truing("plugins", "--json")
    (broken,) = [plugin for plugin in json.loads(said.stdout) if plugin["package"] == "truing-broken"]
    assert (broken["name"], broken["version"], broken["specs"]) == ("broken", "6.6.6", 0)
    assert broken["error"] == "RuntimeError: truing-broken needs a moon phase it did not find"
    assert said.returncode == 0


def test_recipes_that_ship_are_there_and_so_are_a_strangers(truing, tmp_path):
    listed = {row["name"] for row in json.loads(truing("init", "--json").stdout)}
    shipped = {path.relative_to(ROOT / "recipes").with_suffix("").as_posix() for path in ROOT.glob("recipes/**/*.toml")}
    assert listed == shipped | {"countdown"}
    assert truing("init", "countdown").returncode == 0
    assert (tmp_path / "countdown.toml").exists()


def test_the_skeleton_of_a_plugin_is_in_the_wheel(truing, tmp_path):
    assert truing("init", "--plugin", "mine").returncode == 0
    assert (tmp_path / "truing-mine/src/truing_mine/plugin.py").exists()


def test_a_recipe_with_a_strangers_parts_is_checked(truing):
    truing("init", "countdown")
    said = truing("check", "countdown.toml")
    assert said.returncode == 0, said.stderr
    assert "countdown -> scratch-lm -> hinge, 2 epochs, 4 groups per step" in said.stdout


def test_an_unknown_name_is_met_with_the_plugins_that_did_not_load(truing):
    said = truing("show", "loss", "crash")
    assert said.returncode == 2
    assert re.search(r"plugins that did not load: .*broken.* \(see `truing plugins`\)", said.stderr)


@pytest.mark.slow
def test_a_recipe_with_a_strangers_parts_runs(truing, tmp_path):
    truing("init", "countdown")
    said = truing("run", "countdown.toml", "--quiet")
    assert said.returncode == 0, said.stderr
    folder = tmp_path / said.stdout.strip()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    losses = [event["metrics"] for event in events if event["type"] == "StepDone"]
    assert len(losses) == 4
    assert losses[0]["loss"] == 1.0, "a policy that has not moved has no margin, and delta is 1"
    assert losses[-1]["loss"] < 1.0
    assert (folder / "model/config.json").exists()
    assert json.loads((folder / "run.json").read_text())["versions"]["truing-hinge"] == "0.3.0"


CONFORMANCE = """
from truing.testing import check_imports, check_spec
from truing_hinge.plugin import Countdown, Hinge
from truing_tensor.testing import check_loss

check_imports("truing_hinge.plugin")
check_spec(Hinge)
check_spec(Countdown)
check_loss(Hinge())
"""


@pytest.mark.slow
def test_a_stranger_can_check_its_plugin_with_what_the_wheel_brings(environment):
    command = [str(environment / "bin/python"), "-W", "error", "-c", CONFORMANCE]
    asked = subprocess.run(command, capture_output=True, text=True, env=clean())
    assert asked.returncode == 0, asked.stderr


def test_an_uninstalled_plugin_is_gone(truing, environment):
    """The last test of this file: nothing after it has the outsiders."""
    truing("init", "countdown")
    pip(environment, "uninstall", "--yes", "truing-hinge", "truing-broken")
    said = truing("check", "countdown.toml")
    assert said.returncode == 2
    assert 'no loss called "hinge"' in said.stderr
    assert 'no source called "countdown"' in said.stderr
    assert "`truing list source` says which there are" in said.stderr
    assert "broken" not in truing("plugins").stdout

"""Names that lead elsewhere: of runs, phases, models, data and keys; and links in a run that somebody else made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from truing.cli import main
from truing.errors import UserError
from truing.journal import Journal
from truing.testing import TOY_RECIPE, TOYS, recipe

WRONG_NAMES = ["../elsewhere", "/tmp/elsewhere", "a/b", "a\\\\b", "a b", "a\\nb", "a\\u0000b", "~", "$HOME", "a;b"]
WRONG_PHASES = ["../sft", "/sft", "..", ".", "sft/model", "SFT", "a b", "-rf", ""]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_run_is_not_called_what_leads_out_of_the_folder_of_runs(name: str) -> None:
    with pytest.raises(UserError, match="cannot be a folder"):
        recipe(TOY_RECIPE.replace('name = "toy"', f'name = "{name}"'), *TOYS)


@pytest.mark.parametrize("name", [".", "..", "...", "-rf"])
def test_a_name_of_dots_is_a_folder_like_any_other(name: str, tmp_path: Path) -> None:
    made = Journal.create(tmp_path / "runs", recipe(TOY_RECIPE.replace("toy", name, 1), *TOYS), {}).folder
    assert made.resolve().parent == (tmp_path / "runs").resolve()


@pytest.mark.parametrize("name", WRONG_PHASES)
def test_a_phase_is_not_called_what_leads_out_of_the_folder_of_the_run(name: str) -> None:
    tables = TOY_RECIPE.partition("\n\n")[2].replace("[", f'[phase."{name}".')
    with pytest.raises(UserError, match="is no phase"):
        recipe(f'name = "toy"\n{tables}', *TOYS)


@pytest.mark.parametrize(
    ("table", "use"),
    [
        ("model", 'use = "causal-lm"\npath = "@{}"'),
        ("source", 'use = "collected"\npath = "@{}"\nform = "pairs"'),
        ("loss", 'use = "toy"\n[generator]\nuse = "scripted"\nlines = ["x"]\ntokenizer = "@{}"'),
    ],
)
@pytest.mark.parametrize("phase", ["../other-run/sft", "..", "/etc", "sft/../.."])
def test_what_an_earlier_phase_made_is_named_by_that_phase_and_by_no_path(table: str, use: str, phase: str) -> None:
    text = TOY_RECIPE.replace(f'[{table}]\nuse = "toy"', f"[{table}]\n{use.format(phase)}")
    with pytest.raises(UserError, match="no earlier phase called"):
        recipe(text, *TOYS)


def the_events(run: Path, outside: Path) -> None:
    (run / "events.jsonl").symlink_to(outside / "file")


def a_file_that_is_waiting(run: Path, outside: Path) -> None:
    (run / "run.json.new").symlink_to(outside / "file")


def the_batches_of_a_phase(run: Path, outside: Path) -> None:
    (run / "sft").mkdir()
    (run / "sft" / "batches.jsonl").symlink_to(outside / "file")


def a_whole_phase(run: Path, outside: Path) -> None:
    (run / "sft").symlink_to(outside)


def checkpoints_beside_the_run(run: Path, outside: Path) -> None:
    (run / "checkpoints").symlink_to(Path("..") / ".." / outside.name)


@pytest.mark.parametrize(
    "plant",
    [the_events, a_file_that_is_waiting, the_batches_of_a_phase, a_whole_phase, checkpoints_beside_the_run],
)
@pytest.mark.parametrize("command", ["resume", "track", "replay"])
def test_a_run_with_a_link_that_leads_out_of_it_is_not_gone_on_with(
    command: str, plant: Callable[[Path, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Journal.create(tmp_path / "runs", recipe(TOY_RECIPE, *TOYS), {}).folder
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    plant(run, outside)
    with pytest.raises(SystemExit) as left:
        main([command, str(run)])
    assert left.value.code == 2
    assert "leads out of the run" in capsys.readouterr().err
    assert [path.read_text() for path in outside.iterdir()] == ["mine"]


def test_a_link_to_a_run_and_links_inside_of_it_are_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Journal.create(tmp_path / "runs", recipe(TOY_RECIPE, *TOYS), {}).folder
    (run / "newest").symlink_to("run.json")
    (tmp_path / "last").symlink_to(run)
    with pytest.raises(SystemExit):
        main(["resume", str(tmp_path / "last"), "--force"])
    assert "leads out" not in capsys.readouterr().err

"""A run that is killed goes on: nothing is learned twice, nothing is lost, and taking turns it ends bit for bit as if
nobody had killed it. Disks that are full, folders that take nothing, checkpoints that rot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.errors import RunFailed
from truing.events import Notice, PhaseStarted, StepDone
from truing.journal import Journal, PhaseFolder, Position
from truing.testing import TOY_RECIPE, TOYS, recipe, run_recipe

KILLING = Path(__file__).with_name("killing.py")
KILLS = 8


def test_killed_at_random_moments_a_run_goes_on_to_where_it_would_have_come(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    asked = subprocess.run(
        [sys.executable, str(KILLING), str(tmp_path), str(KILLS), "7"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    runs: list[dict[str, Any]] = [json.loads(line) for line in asked.stdout.splitlines()]
    whole = {run["way"]: run for run in runs[:4]}
    assert len(runs) == KILLS + 4
    assert whole["answered"]["turns"] > 1
    assert sum(run["died"] for run in runs[4:]) >= 6
    for run in runs[4:]:
        told = f"{run['way']}, killed at {run['moment']}"
        assert run["finished"], told
        assert (run["status"], run["checkpoints"]) == ("finished", 0), told
        assert run["oldest"] <= 2 * (run["way"] == "ahead"), told
        uninterrupted = whole[run["way"]]
        # What each step learned from is the same prompts; taking turns the same completions and weights, too.
        assert {step: ids for step, (ids, _) in run["steps"].items()} == {
            step: ids for step, (ids, _) in uninterrupted["steps"].items()
        }, told
        assert run["ends"] == uninterrupted["ends"], told
        if run["way"] != "ahead":
            assert run["steps"] == uninterrupted["steps"], told
            assert (run["weights"], run["best"]) == (uninterrupted["weights"], uninterrupted["best"]), told


# --- checkpoints that rot ---------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["toy.json", "position.json", "SHA256SUMS"])
def test_a_corrupt_checkpoint_is_said_and_the_one_before_it_used(
    spoil: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    made = recipe(TOY_RECIPE, *TOYS, overrides=["loop.checkpoint_every=1", "model.fail_at=4"])
    with pytest.raises(RuntimeError):
        run_recipe(made, tmp_path)
    (folder,) = tmp_path.iterdir()
    spoil(folder / "checkpoints" / "step-000003" / name)
    again = run_recipe(recipe(TOY_RECIPE, *TOYS), folder, resumed=True)
    (start,) = [event.start for event in again.events if isinstance(event, PhaseStarted)][1:]
    assert start == 2
    _, notice = [event.text for event in again.events if isinstance(event, Notice)]
    assert "step-000003 is corrupt, and the one before it is used" in notice
    assert [event.step for event in again.events if isinstance(event, StepDone)] == [1, 2, 3, 3, 4]
    assert again.status == "finished"


def test_when_no_checkpoint_is_whole_the_run_does_not_begin_anew_by_itself(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    path = folder.save(Position(step=1), lambda to: (to / "weights").write_text("whole"), keep=1)
    flip(path / "weights")
    with pytest.raises(RunFailed, match=r"no checkpoint is whole; remove .*checkpoints to begin anew.*weights is not"):
        folder.newest()


def test_the_sums_of_a_checkpoint_can_be_checked_by_hand(tmp_path: Path) -> None:
    path = PhaseFolder(tmp_path).save(Position(step=1), lambda to: (to / "weights").write_text("whole"), keep=1)
    asked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines() == ["position.json: OK", "weights: OK"]


# --- disks that take nothing ------------------------------------------------------------------------------------------

FULL = """
import resource, sys
from pathlib import Path
import signal
from truing.errors import RunFailed, first_cause
from truing.testing import TOY_RECIPE, TOYS, ToyModel, recipe, run_recipe

real = ToyModel.checkpoint
def checkpoint(self, folder):
    if self.version == 3:  # the third is larger than the disk
        (folder / "large").write_bytes(b"x" * 300_000)
    real(self, folder)
ToyModel.checkpoint = checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    run_recipe(recipe(TOY_RECIPE, *TOYS, overrides=["loop.checkpoint_every=1"]), Path(sys.argv[1]))
except Exception as error:
    print(first_cause(error))
"""


def test_a_full_disk_ends_the_run_with_its_reason_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    asked = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=False)
    (folder,) = tmp_path.iterdir()
    assert asked.stdout.startswith(f"cannot write {folder}/checkpoints/step-000003: "), asked.stderr
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    assert (Journal(folder).read().status, Journal(folder).read().reason) == ("failed", asked.stdout.strip())
    again = run_recipe(recipe(TOY_RECIPE, *TOYS), folder, resumed=True)
    assert [event.start for event in again.events if isinstance(event, PhaseStarted)] == [0, 2]


READ_ONLY = """
import os, sys
from pathlib import Path
import truing.replay, anyio._backends._asyncio  # what is imported later may lie where only root may read
from truing.errors import RunFailed, first_cause
from truing.testing import TOY_RECIPE, TOYS, recipe, run_recipe

made = recipe(TOY_RECIPE, *TOYS, overrides=["loop.checkpoint_every=2", "model.fail_at=4"])
again = recipe(TOY_RECIPE, *TOYS, overrides=["loop.checkpoint_every=2"])
root = Path(sys.argv[1])
if os.getuid() == 0:
    os.chown(root, 65534, 65534)
    os.seteuid(65534)
try:
    run_recipe(made, root)
except RuntimeError:
    pass
(folder,) = root.iterdir()
(folder / "checkpoints").chmod(0o500)
try:
    run_recipe(again, folder, resumed=True)
except Exception as error:
    print(first_cause(error))
print(*sorted(path.name for path in (folder / "checkpoints").iterdir()))
"""


def test_a_folder_that_takes_nothing_ends_the_run_with_its_reason() -> None:
    # Root may write anywhere, so it becomes nobody, who may not look into root's folders of temporary files.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        asked = [sys.executable, "-c", READ_ONLY, folder]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd="/")
        error, *left = done.stdout.splitlines()
    assert re.fullmatch(r"cannot write .*step-000004: Permission denied", error), done.stderr
    assert left == ["step-000002"]

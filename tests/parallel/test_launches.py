"""As many processes as a recipe is for, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.parallel.conftest import RECIPES
from tests.parallel.launching import Launched, run_folder

OPT_IN = "set TRUING_LAUNCHERS=1: every process imports torch anew"


@pytest.mark.parametrize(
    ("started", "processes", "says"),
    [
        (1, 4, "it is for 4 processes, and one process was started"),
        (2, 3, "it is for 3 processes, and 2 processes were started"),
        (2, 1, "it is for one process, and 2 processes were started"),
    ],
)
def test_other_processes_than_a_recipe_is_for_are_refused_and_one_of_them_says_it(
    started: int, processes: int, says: str, tmp_path: Path
) -> None:
    arguments = ["run", str(RECIPES / "sft.toml"), "--processes", str(processes), "--folder", str(tmp_path / "runs")]
    launched = Launched(tmp_path, started, arguments)
    assert launched.ends() == [2] * started
    assert says in launched.said[0]
    assert not any(launched.said[1:])
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not os.environ.get("TRUING_LAUNCHERS"), reason=OPT_IN)
@pytest.mark.parametrize(
    ("launcher", "fails"),
    [
        (["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], ""),
        (["accelerate.commands.launch", "--cpu", "--num_processes", "2"], "it is for 2 processes, and one process was"),
    ],
    ids=["torchrun", "accelerate, which starts one on a CPU"],
)
def test_a_launcher_starts_what_learns_together_or_is_found_out(
    launcher: Sequence[str], fails: str, tmp_path: Path
) -> None:
    truing = ["-m", "truing", "run", str(RECIPES / "sft.toml"), "--folder", str(tmp_path / "runs"), "--processes", "2"]
    command = [sys.executable, "-m", *launcher, *truing]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if fails:
        assert done.returncode != 0
        assert fails in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (run_folder(tmp_path / "runs") / "model").is_dir()

"""`truing replay`: a finished run once more, and what is said when it comes to something else."""

from __future__ import annotations

import json
from pathlib import Path


def the_run(here: Path) -> Path:
    (run,) = (here / "runs").iterdir()
    return run


def test_a_finished_run_is_done_once_more_in_a_folder_of_its_own(truing, here):
    truing("run", "toy.toml", "--quiet")
    said = truing("replay", str(the_run(here)), "--folder", "again")
    assert said.status == 0, said.err
    assert "it came to the same, bit for bit" in said.out
    (again,) = (here / "again").iterdir()
    assert (again / "model" / "toy.json").read_bytes() == (the_run(here) / "model" / "toy.json").read_bytes()


def test_a_replay_is_kept_beside_its_run(truing, here):
    truing("run", "toy.toml", "--quiet")
    assert truing("replay", str(the_run(here))).status == 0
    assert len(list((here / "runs").iterdir())) == 2


def test_a_run_that_came_to_something_else_is_told_with_its_first_step_that_did(truing, here):
    truing("run", "toy.toml", "--quiet")
    events = the_run(here) / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    for line in lines:
        if line["type"] == "StepDone" and line["step"] >= 3:
            line["metrics"]["loss"] += 1e-9
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = truing("replay", str(the_run(here)))
    assert said.status == 1
    assert "step 3 has other numbers: loss (" in said.err
    assert "step 4 has" not in said.err
    assert "bit for bit" not in said.out


def test_only_a_finished_run_is_replayed(truing, here):
    truing("run", "toy.toml", "--set", "model.fail_at=2")
    said = truing("replay", str(the_run(here)))
    assert said.status == 2
    assert "this run is failed, and only a finished one can be replayed" in said.err
    assert "truing resume" in said.err

"""`truing run`, `resume` and `track`: how a run ends, what it says, and how to go on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from truing.cli import running

SLOW_STEPS = ("run", "toy.toml", "--set", "model.seconds=0.4")


def the_run(here: Path) -> Path:
    (run,) = (here / "runs").iterdir()
    return run


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_bytes())


def learned(run: Path) -> list[list[str]]:
    return json.loads((run / "model" / "toy.json").read_bytes())["learned"]


def rewrite(run: Path, **values: Any) -> None:
    (run / "run.json").write_text(json.dumps({**status_of(run), "crc32": "", **values}))


def test_a_run_that_finishes_says_where_to_look(truing, here):
    said = truing("run", "toy.toml")
    assert said.status == 0, said.err
    run = the_run(here)
    assert f"run folder  {run.relative_to(here)}" in said.out
    assert f"model       {run.relative_to(here)}/model" in said.out
    assert "resume" not in said.out
    assert status_of(run)["status"] == "finished"


def test_runs_can_be_kept_elsewhere(truing, here):
    assert truing("run", "toy.toml", "--folder", "elsewhere/deep").status == 0
    assert not (here / "runs").exists()
    assert len(list((here / "elsewhere/deep").iterdir())) == 1


def test_a_quiet_run_prints_its_folder_and_nothing_else(truing, here):
    said = truing("run", "toy.toml", "--quiet")
    assert said.out == f"{the_run(here).relative_to(here)}\n"
    assert said.err == ""


def test_a_json_run_prints_only_json_lines_on_stdout(truing, here):
    said = truing("run", "toy.toml", "--json")
    assert said.status == 0
    events = [json.loads(line)["type"] for line in said.out.splitlines()]
    assert events[0] == "RunStarted"
    assert events[-1] == "RunEnded"
    assert "run folder" in said.err


def test_json_and_quiet_together_are_refused(truing, here):
    said = truing("run", "toy.toml", "--json", "--quiet")
    assert said.status == 2
    assert not (here / "runs").exists()


def test_a_recipe_with_a_console_of_its_own_is_not_watched_twice(truing, here):
    (here / "own.toml").write_text((here / "toy.toml").read_text() + '\n[[observer]]\nuse = "console"\n')
    twice = truing("run", "own.toml", "--json")
    assert twice.status == 2
    assert "a console observer of its own" in twice.err
    assert truing("run", "own.toml").status == 0


def test_a_blocked_console_costs_the_run_nothing(truing):
    assert truing("run", "toy.toml", "--block", "console").status == 0


def test_a_wrong_recipe_says_all_its_problems_and_makes_no_folder(truing, here):
    said = truing("run", "toy.toml", "--set", "loss.scale=0", "--set", "loop.batches=1")
    assert said.status == 2
    assert "loss.scale" in said.err
    assert 'did you mean "batch"?' in said.err
    assert said.out == ""
    assert not (here / "runs").exists()


def test_a_recipe_that_is_not_there_is_the_users_mistake(truing):
    said = truing("run", "nowhere.toml")
    assert said.status == 2
    assert "nowhere.toml  cannot read this recipe" in said.err


@pytest.mark.parametrize("arguments", [["frobnicate"], ["run"], ["run", "toy.toml", "--sett", "a=1"]])
def test_a_mistyped_command_line_has_status_2(truing, arguments):
    assert truing(*arguments).status == 2


def test_a_run_that_cannot_go_on_has_status_1_and_no_traceback(truing, here):
    said = truing("run", "toy.toml", "--set", "source.groups=0")
    assert said.status == 1
    assert "the run failed: the source counting has no groups to learn from" in said.err
    assert "Traceback" not in said.err
    assert not (the_run(here) / "traceback.txt").exists()


def test_an_unexpected_error_is_a_sentence_and_its_traceback_is_kept(truing, here):
    said = truing("run", "toy.toml", "--set", "model.fail_at=2")
    assert said.status == 1
    kept = the_run(here).relative_to(here) / "traceback.txt"
    assert f"the traceback is in {kept}" in said.err
    assert "RuntimeError: the toy was told to fail at step 2" in said.err
    assert "Traceback" not in said.err
    assert 'raise RuntimeError(f"the toy was told' in kept.read_text()
    assert status_of(the_run(here))["status"] == "failed"


def test_a_traceback_is_shown_to_who_asks_for_it(truing, monkeypatch):
    assert "Traceback" in truing("run", "toy.toml", "--set", "model.fail_at=1", "--traceback").err
    monkeypatch.setenv("TRUING_TRACEBACK", "1")
    assert "Traceback" in truing("run", "toy.toml", "--set", "model.fail_at=1").err


def test_an_observer_that_does_not_open_ends_the_run_before_it_begins(truing, here):
    (here / "watched.toml").write_text((here / "toy.toml").read_text() + '\n[[observer]]\nuse = "toy"\nfail = "open"\n')
    said = truing("run", "watched.toml")
    assert said.status == 1
    assert "told to fail at open" in said.err
    assert not (the_run(here) / "model").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_a_checkpoint_and_the_run_can_be_resumed(truing, start, here, number):
    process = start(*SLOW_STEPS)
    process.until('"step":1')
    process.send(number)
    said = process.end()
    run = the_run(here)
    assert said.status == 130
    assert f"truing resume {run.relative_to(here)}" in said.out
    assert status_of(run)["status"] == "interrupted"
    assert status_of(run)["reason"] == f"interrupted by {number.name}"
    assert list((run / "checkpoints").iterdir())

    resumed = truing("resume", str(run))
    assert resumed.status == 0, resumed.err
    assert status_of(run)["status"] == "finished"
    assert learned(run) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]


def test_a_model_that_is_still_being_built_is_not_waited_for(start, here):
    process = start("run", "toy.toml", "--set", "model.build_seconds=600")
    process.until("RunStarted")
    process.send(signal.SIGINT)
    said = process.end(seconds=10)
    assert said.status == 130
    assert status_of(the_run(here))["status"] == "interrupted"


def test_a_second_signal_stops_a_run_that_does_not_let_go(start, here):
    process = start("run", "toy.toml", "--set", "source.use=stuck")
    process.until("PhaseStarted")
    process.send(signal.SIGINT)
    process.hear("once more to stop at once")
    process.send(signal.SIGINT)
    said = process.end(seconds=10)
    assert said.status == 130
    assert status_of(the_run(here))["status"] == "interrupted"
    assert "truing resume" in said.out


def test_a_finished_run_is_not_resumed(truing, here):
    truing("run", "toy.toml")
    said = truing("resume", str(the_run(here)))
    assert said.status == 2
    assert "this run has finished" in said.err


def test_a_run_whose_process_is_alive_is_not_resumed(truing, here):
    truing("run", "toy.toml")
    rewrite(the_run(here), status="running", pid=os.getpid(), host=socket.gethostname())
    said = truing("resume", str(the_run(here)))
    assert said.status == 2
    assert f"process {os.getpid()} is running this right now" in said.err


def test_a_run_that_was_killed_is_resumed(truing, here):
    truing("run", "toy.toml", "--set", "model.fail_at=3", "--set", "loop.checkpoint_every=1")
    run = the_run(here)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    rewrite(run, status="running", pid=gone.pid, host=socket.gethostname())
    resolved = run / "resolved.toml"
    resolved.write_text(resolved.read_text().replace("fail_at = 3", "fail_at = 0"))
    assert truing("resume", str(run)).status == 0
    assert learned(run) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]


def test_a_run_of_another_machine_is_resumed_only_by_force(truing, here):
    truing("run", "toy.toml", "--set", "source.groups=0")
    rewrite(the_run(here), status="running", host="some-other-machine")
    said = truing("resume", str(the_run(here)))
    assert said.status == 2
    assert "some-other-machine" in said.err
    assert "--force" in said.err
    assert truing("resume", str(the_run(here)), "--force").status == 1


def test_a_folder_that_is_no_run_is_not_resumed(truing, here):
    for command in ("resume", "track"):
        said = truing(command, str(here))
        assert said.status == 2
        assert "this is no run folder" in said.err


def test_tracking_a_run_that_sends_nothing_anywhere_says_so(truing, here):
    truing("run", "toy.toml")
    said = truing("track", str(the_run(here)))
    assert said.status == 2
    assert "no observer of this run sends events anywhere" in said.err


def test_a_killed_process_that_nobody_collected_is_not_taken_for_a_running_one() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not running._alive(child.pid)
    child.wait()
    assert running._alive(os.getpid())

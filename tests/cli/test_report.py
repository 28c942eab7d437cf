"""`truing report`: what a run came to, told from its events alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from truing import events
from truing.bus import Bus
from truing.cli.summary import summarise
from truing.journal import Journal
from truing.testing import HEAVY

ROOT = Path(__file__).parents[2]


def the_run(here: Path) -> Path:
    (run,) = (here / "runs").iterdir()
    return run


def told(truing, run: Path) -> dict[str, Any]:
    return truing("report", str(run), "--json").json


def moment(seconds: float, kind: type[events.Event], **values: Any) -> events.Event:
    return kind(time=1000.0 + seconds, **values)


def began(seconds: float, phases: list[str], resumed: bool = False) -> events.Event:
    started = {"name": "tiny", "folder": "/runs/tiny", "digest": "abc", "versions": {}, "resumed": resumed}
    return moment(seconds, events.RunStarted, phases=phases, **started)


def step(seconds: float, number: int, phase: str = "dpo", **metrics: float) -> events.Event:
    return moment(seconds, events.StepDone, phase=phase, step=number, steps=4, epoch=0, metrics=metrics)


# --- runs of every kind -----------------------------------------------------------------------------------------------


def test_a_finished_run_is_told_with_its_data_its_metrics_its_speed_and_its_model(truing, here):
    truing("run", "toy.toml", "--quiet", "--set", "model.drop=['3']")
    run = the_run(here)
    said = truing("report", str(run))
    assert said.status == 0, said.err
    head, *lines = said.out.splitlines()
    assert head.startswith("toy: finished after 0:0")
    text = "\n".join(lines)
    assert "4 of 4 steps in 0:0" in text
    assert "  source      8 groups: counting" in text
    assert "  dropped     1 groups (told to drop it: 1)" in text
    assert " tokens/s, " in text
    assert f"  model       {run.resolve()}/model" in text
    assert "METRIC  FIRST  LAST" in text
    assert "loss    1      0." in text
    assert said.err == ""


def test_a_machine_reads_the_same(truing, here):
    truing("run", "toy.toml", "--quiet")
    found = told(truing, the_run(here))
    assert (found["name"], found["status"], found["resumed"]) == ("toy", "finished", 0)
    (phase,) = found["phases"]
    assert (phase["name"], phase["status"], phase["step"], phase["steps"]) == ("", "finished", 4, 4)
    assert phase["training"]["loss"]["first"] == {"step": 1, "value": 1.0}
    assert phase["training"]["loss"]["best"] == phase["training"]["loss"]["last"]
    assert phase["training"]["weight"]["best"] is None
    assert phase["holdout"] == {}
    assert phase["tokens_per_second"] > 0


def test_a_failed_run_says_why_and_how_far_it_came(truing, here):
    truing("run", "toy.toml", "--quiet", "--set", "model.fail_at=3", "--set", "loop.checkpoint_every=1")
    run = the_run(here)
    said = truing("report", str(run))
    assert said.status == 0
    assert "toy: failed after" in said.out
    assert "RuntimeError: the toy was told to fail at step 3" in said.out
    assert "2 of 4 steps" in said.out
    assert f"  checkpoint  {run.relative_to(here)}/checkpoints/step-000002" in said.out
    assert "model  " not in said.out


def test_a_run_that_goes_on_is_told_while_it_does(truing, here, start):
    process = start("run", "toy.toml", "--quiet", "--set", "model.seconds=30")
    process.until("PhaseStarted")
    said = truing("report", str(the_run(here)))
    process.send(2)
    process.end()
    assert said.status == 0
    assert said.out.startswith("toy: under way, or killed; last heard of 0:0")
    assert "\n0 of 4 steps in" in said.out


def test_a_resumed_run_is_one(truing, here):
    truing("run", "toy.toml", "--quiet", "--set", "model.fail_at=3", "--set", "loop.checkpoint_every=2")
    run = the_run(here)
    resolved = (run / "resolved.toml").read_text().replace("fail_at = 3", "fail_at = 0")
    (run / "resolved.toml").write_text(resolved)
    assert truing("resume", str(run), "--quiet").status == 0
    said = truing("report", str(run))
    assert "toy: finished after" in said.out
    assert "  resumed     once" in said.out
    assert "4 of 4 steps" in said.out
    assert "checkpoint " not in said.out


def test_events_alone_are_enough(truing, here):
    truing("run", "toy.toml", "--quiet")
    copy = here / "copy"
    copy.mkdir()
    (copy / "events.jsonl").write_bytes((the_run(here) / "events.jsonl").read_bytes())
    assert truing("report", "copy").out == truing("report", str(the_run(here))).out


def test_a_folder_that_is_no_run_is_refused(truing, here):
    said = truing("report", ".")
    assert said.status == 2
    assert "there is no events.jsonl here" in said.err
    assert "truing run" in said.err


def test_a_run_in_which_nothing_has_happened_yet_has_nothing_to_tell(truing, here):
    (here / "events.jsonl").touch()
    said = truing("report", ".")
    assert said.status == 0
    assert "nothing has happened" in said.out


def test_it_answers_at_once_and_imports_nothing_heavy(truing, here):
    """0.27 s on the machine this was written on; the limit leaves room for a busy one."""
    truing("run", "toy.toml", "--quiet")
    looking = f"""
import sys
from truing.cli import main
try:
    main(["report", sys.argv[1]])
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *[name for name in {(*HEAVY, "rich")!r} if name in sys.modules])
"""
    seconds: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        said = subprocess.run(
            [sys.executable, "-c", looking, str(the_run(here))], check=True, capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - began)
        assert said.stdout.splitlines()[-1] == "imported:"
    assert min(seconds) < 1.5, f"best of three: {min(seconds):.2f} s"


# --- what is made of the events ---------------------------------------------------------------------------------------


def test_of_steps_taken_again_the_last_counts_and_time_between_runs_is_no_work() -> None:
    first = [
        began(0, ["dpo"]),
        moment(1, events.PhaseStarted, phase="dpo", options={}, steps=4),
        step(2, 1, loss=4.0),
        step(3, 2, loss=0.1),
        step(4, 3, loss=0.1),
    ]
    again = [
        began(1000, ["dpo"], resumed=True),
        moment(
            1005, events.DataOpened, phase="dpo", role="source", name="d", digest="", groups=4, skipped=0, origin="d"
        ),
        moment(1006, events.PhaseStarted, phase="dpo", options={}, steps=4, start=1),
        step(1007, 2, loss=3.0),
        moment(1008, events.PhaseEnded, phase="dpo", status="interrupted"),
        moment(1010, events.RunEnded, status="interrupted", reason="SIGINT"),
        moment(2000, events.Notice, text="late"),
    ]
    run = summarise([*first, *again])
    (dpo,) = run.phases
    assert (run.status, run.reason, run.seconds, run.resumed) == ("interrupted", "SIGINT", 4 + 10, 1)
    assert (dpo.step, dpo.seconds) == (2, 3 + 2)
    loss = dpo.training["loss"]
    assert loss.best
    assert (loss.first.value, loss.last.value, loss.best.value) == (4.0, 3.0, 3.0)
    assert run.notes == ["late"]


def test_the_best_is_the_lowest_loss_and_the_highest_accuracy_and_never_what_is_not_a_number() -> None:
    points = [{"loss": 2.0, "accuracy": 0.5}, {"loss": 1.0, "accuracy": 0.9}, {"loss": math.nan, "accuracy": 0.7}]
    looks = [
        moment(at, events.Evaluated, phase="dpo", step=10 * at, metrics={**point, "loss/nll": 1.0, "kl": 1.0})
        for at, point in enumerate(points)
    ]
    held = summarise([began(0, ["sft", "dpo"]), *looks]).phases[1].holdout
    best = {key: (track.best.step, track.best.value) for key, track in held.items() if track.best}
    assert best == {"loss": (10, 1.0), "accuracy": (10, 0.9), "loss/nll": (0, 1.0)}


def test_phases_that_have_not_begun_and_alarms_are_told(truing, here):
    bus = Bus(keep=Journal(here).record)
    for event in (
        began(0, ["sft", "dpo"]),
        moment(0, events.PhaseStarted, phase="sft", options={}, steps=4),
        moment(0, events.Evaluated, phase="sft", step=0, metrics={"loss": 2.0}),
        step(0, 1, "sft", loss=1.0, **{"speed/step_seconds": 0.5, "speed/tokens_per_second": 1234.0}),
        moment(0, events.Alarm, phase="sft", step=1, name="collapse", text="both fell", values={}),
        moment(0, events.Notice, phase="sft", text="something"),
    ):
        bus.publish(event)
    said = truing("report", ".").out
    assert "  note        sft: something" in said
    assert "\nsft: not ended, 1 of 4 steps in 0:00\n" in said
    assert "  speed       1,234 tokens/s, 0.5 s a step (medians)" in said
    assert "  alarm       step 1, collapse: both fell" in said
    assert (
        "METRIC  FIRST  LAST  BEST    HELD OUT  LAST  BEST\nloss    1      1     1 at 1  2         2     2 at 0\n"
        in said
    )
    assert said.endswith("\ndpo: not begun\n")


@pytest.mark.slow
def test_a_preference_run_is_told_with_its_holdout(truing, here):
    recipe = str(ROOT / "recipes" / "tiny" / "dpo.toml")
    done = subprocess.run(
        [sys.executable, "-m", "truing", "run", recipe, "--quiet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = told(truing, Path(done.stdout.strip()))
    (phase,) = found["phases"]
    assert [(data["role"], data["groups"]) for data in phase["data"]] == [("source", 64), ("holdout", 16)]
    assert phase["holdout"]["loss"]["first"]["value"] == pytest.approx(math.log(2))
    assert phase["holdout"]["accuracy"]["last"]["step"] == 16
    assert -1 <= phase["holdout"]["length/correlation"]["last"]["value"] <= 1
    assert json.dumps(found["phases"][0]["alarms"]) == "[]"

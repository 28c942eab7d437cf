"""`truing report --trace`: the timeline of a run, as a viewer of traces reads it."""

from __future__ import annotations

import json
from pathlib import Path

from truing.cli.summary import summarise
from truing.cli.trace import trace_of
from truing.events import Event, GroupFailed, GroupTrained, PhaseStarted, StageEnded, WaveAdmitted

STORY: list[Event] = [
    PhaseStarted(time=100.0, phase="rl", options={}, steps=1),
    WaveAdmitted(time=100.5, phase="rl", wave=1, ids=["a", "b"]),
    StageEnded(time=103.0, phase="rl", stage="generate", wave=1, began=101.0, seconds=2.0, version=4),
    StageEnded(time=103.5, phase="rl", stage="score", wave=1, began=103.2, seconds=0.3, ids=["a"]),
    GroupFailed(time=103.6, phase="rl", id="b", stage="score", error="no answer within 9 s", wave=1),
    GroupTrained(time=105.0, phase="rl", step=1, wave=1, ids=["a"], digest=""),
]


def test_every_piece_of_work_is_a_bar_in_the_lane_of_its_stage() -> None:
    events = trace_of(STORY)["traceEvents"]
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    bars = [(lanes[event["tid"]], event["ts"], event["dur"], event["args"]) for event in events if event["ph"] == "X"]
    assert bars == [
        ("generate", 1_000_000, 2_000_000, {"wave": 1, "version": 4}),
        ("score", 3_200_000, 300_000, {"wave": 1, "groups": ["a"]}),
    ]


def test_a_wave_is_a_bar_from_its_admission_to_its_step_and_a_lost_group_a_mark() -> None:
    events = trace_of(STORY)["traceEvents"]
    assert [(event["ph"], event["id"], event["ts"]) for event in events if event.get("cat") == "wave"] == [
        ("b", 1, 500_000),
        ("e", 1, 5_000_000),
    ]
    (lost,) = [event for event in events if event["name"] == "b is lost"]
    assert lost["args"] == {"why": "score: no answer within 9 s"}


def test_a_report_says_how_many_groups_failed_and_why() -> None:
    (phase,) = summarise(STORY).phases
    assert phase.failed == {"score: no answer within 9 s": 1}


def test_the_timeline_of_a_run_is_written_where_it_is_asked_for(truing, here):
    truing("run", "toy.toml", "--quiet")
    (run,) = (here / "runs").iterdir()
    assert truing("report", str(run), "--trace", "timeline.json").status == 0
    events = json.loads(Path("timeline.json").read_text())["traceEvents"]
    assert [event["name"] for event in events if event["ph"] == "X"] == [f"learn {wave}" for wave in (1, 2, 3, 4)]

"""What a person sees of a run, and what a program reads."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing import events
from truing.bus import Bus
from truing.run import Run
from truing_console.observer import ConsoleObserver
from truing_console.plugin import Console
from truing_console.report import clock

ESCAPE = "\x1b"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def moment(seconds: float, kind: type[events.Event], **values: Any) -> events.Event:
    return kind(time=1000.0 + seconds, **values)


def a_run() -> list[events.Event]:
    metrics = {"loss": 0.5, "loss/sft": 0.5, "speed/tokens_per_second": 12345.6, "data/dropped": 2.0}
    return [
        moment(
            0, events.RunStarted, name="tiny", folder="/my runs/tiny", digest="", phases=["sft", "dpo"], versions={}
        ),
        moment(
            1,
            events.DataOpened,
            phase="sft",
            role="source",
            name="d",
            digest="",
            groups=1200,
            skipped=1,
            origin="d.jsonl",
        ),
        moment(2, events.PhaseStarted, phase="sft", options={"loop.batch": 8, "loss.use": "sft"}, steps=25),
        moment(2, events.Evaluated, phase="sft", step=0, metrics={"loss": 2.0, "accuracy": 0.5, "other": 1.0}),
        *(
            moment(2 + n, events.StepDone, phase="sft", step=n, steps=25, epoch=0, metrics=metrics)
            for n in range(1, 26)
        ),
        moment(28, events.GroupDropped, phase="sft", id="a", reason="too long"),
        moment(28, events.GroupDropped, phase="sft", id="b", reason="too long"),
        moment(28, events.GroupDropped, phase="sft", id="b", reason="too long"),
        moment(29, events.Evaluated, phase="sft", step=25, metrics={"loss": 1.0, "accuracy": 0.75, "other": 1.0}),
        moment(30, events.Notice, text="[something] happened"),
        moment(31, events.CheckpointSaved, phase="sft", step=25, path="/my runs/tiny/sft/checkpoints/step-000025"),
        moment(32, events.ModelSaved, phase="sft", path="/my runs/tiny/sft/model", facts={}),
        moment(33, events.PhaseEnded, phase="sft", status="finished"),
        moment(64, events.RunEnded, status="interrupted", reason="SIGINT"),
    ]


def shown(tmp_path: Path, happened: list[events.Event], err: io.StringIO, **options: Any) -> tuple[str, str]:
    out = io.StringIO()

    async def play() -> None:
        watching = ConsoleObserver(Console(**options), Run("tiny", tmp_path, 0, Bus()), out, err)
        await watching.open()
        for event in happened:
            await watching.observe(event)
        await watching.close()

    anyio.run(play)
    return out.getvalue(), err.getvalue()


def test_without_a_terminal_there_are_plain_lines_with_the_facts(tmp_path: Path) -> None:
    out, err = shown(tmp_path, a_run(), io.StringIO())
    assert out == ""
    assert ESCAPE not in err
    assert "\r" not in err
    assert err.splitlines() == [
        "tiny: begins in /my runs/tiny, phases sft, dpo",
        "sft: 1,200 groups to learn from: d.jsonl (1 unusable row left out)",
        "sft: 25 steps of 8 groups, loss sft",
        "sft: step 0, held out: loss 2, accuracy 0.5",
        "sft: step 1/25  loss 0.5  12,346 tokens/s  2 dropped  0:24 left",
        "sft: step 10/25  loss 0.5  12,346 tokens/s  2 dropped  0:15 left",
        "sft: step 20/25  loss 0.5  12,346 tokens/s  2 dropped  0:05 left",
        "sft: step 25/25  loss 0.5  12,346 tokens/s  2 dropped  0:00 left",
        "sft: step 25, held out: loss 2 -> 1, accuracy 0.5 -> 0.75",
        "tiny: note: [something] happened",
        "sft: checkpoint /my runs/tiny/sft/checkpoints/step-000025",
        "sft: model /my runs/tiny/sft/model",
        "sft: 2 groups dropped (too long: 2)",
        "sft: finished after 0:31",
        "tiny: interrupted after 1:04: SIGINT",
    ]


def test_a_recipe_of_one_phase_goes_by_its_own_name(tmp_path: Path) -> None:
    happened = [
        moment(0, events.PhaseStarted, phase="", options={}, steps=1, start=0),
        moment(1, events.StepDone, phase="", step=1, steps=1, epoch=0, metrics={"loss": float("nan")}),
        moment(2, events.PhaseEnded, phase="", status="finished"),
        moment(2, events.RunEnded, status="finished"),
    ]
    _, err = shown(tmp_path, happened, io.StringIO())
    assert err.splitlines() == ["tiny: 1 step", "tiny: step 1/1  loss nan  0:00 left", "tiny: finished"]


def test_an_alarm_is_a_line(tmp_path: Path) -> None:
    raised = moment(0, events.Alarm, phase="dpo", step=12, name="collapse", text="both fell", values={"a": 1.0})
    _, err = shown(tmp_path, [raised], io.StringIO())
    assert err.splitlines() == ["dpo: step 12, alarm collapse: both fell"]


def test_json_lines_decode_to_the_events(tmp_path: Path) -> None:
    out, err = shown(tmp_path, a_run(), Terminal(), mode="json")
    assert [events.decode(line.encode()) for line in out.splitlines()] == a_run()
    assert err == ""


def test_quiet_says_nothing(tmp_path: Path) -> None:
    assert shown(tmp_path, a_run(), Terminal(), mode="quiet") == ("", "")


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("err", "mode"), [(Terminal(), "auto"), (io.StringIO(), "bar")])
def test_in_a_terminal_a_bar_moves_below_the_lines(tmp_path: Path, err: io.StringIO, mode: str) -> None:
    _, text = shown(tmp_path, a_run(), err, mode=mode)
    for fact in (
        "25/25",
        "loss 0.5",
        "12,346 tokens/s",
        "0:00 left",
        "note: [something] happened",
        "loss 2 -> 1",
    ):
        assert fact in text
    assert text.count(HIDE) == text.count(SHOW) == 1


@pytest.mark.usefixtures("wide")
def test_no_color_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _, text = shown(tmp_path, a_run(), Terminal())
    assert "\x1b[3" not in text
    assert "25/25" in text


@pytest.mark.usefixtures("wide")
def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    _, text = shown(tmp_path, a_run(), Terminal())
    assert ESCAPE not in text


@pytest.mark.usefixtures("wide")
def test_closing_without_an_end_leaves_the_terminal_clean(tmp_path: Path) -> None:
    before = (sys.stdout, sys.stderr)
    _, text = shown(tmp_path, a_run()[:10], Terminal())
    assert text.count(HIDE) == text.count(SHOW) == 1
    assert text.endswith(SHOW)
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.usefixtures("wide")
def test_events_after_the_end_are_still_shown(tmp_path: Path) -> None:
    late = moment(70, events.Notice, text="3 events did not reach MLflow")
    _, text = shown(tmp_path, [*a_run(), late], Terminal())
    assert "3 events did not reach MLflow" in text


def test_naming_the_observer_does_not_import_rich() -> None:
    code = "import sys, truing_console.plugin, truing_console.observer; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("seconds", "text"), [(6.6, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_a_span_of_time_is_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text

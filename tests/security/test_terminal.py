"""What data, models and servers say is shown as text: no character of it commands the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import anyio
import pytest

from truing.bus import Bus
from truing.cli import main, output
from truing.errors import Problem, shown
from truing.events import Alarm, Event, GroupFailed, Notice, PhaseStarted, RunEnded, RunStarted, StepDone, encode
from truing.run import Run
from truing_console.observer import ConsoleObserver
from truing_console.plugin import Console

CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
"""tells a terminal to put something on the clipboard"""
TRICKS = (CLIPBOARD, "\x1b[2J", "\x9b31m", "\x08\x08\x08", "\rdone", "\x7f")
LOUD = "".join(TRICKS)


def told() -> list[Event]:
    """A run in which everything that may come from elsewhere has been tampered with."""
    return [
        RunStarted(name=LOUD, folder="f", digest="d", phases=[""], versions={}),
        PhaseStarted(phase="", options={"loop.batch": 2, "loss.use": LOUD}, steps=1),
        StepDone(phase="", step=1, steps=1, epoch=0, metrics={f"score/{LOUD}": 1.0, "loss": 1.0}),
        GroupFailed(phase="", id=LOUD, stage="score", error=LOUD),
        Notice(text=f"a server said: {LOUD}"),
        Alarm(phase="", step=1, name="x", text=LOUD, values={}),
        RunEnded(status="failed", reason=LOUD),
    ]


def quiet(text: str) -> bool:
    return bool(text) and all(letter in "\n\t" or (letter >= " " and not "\x7f" <= letter < "\xa0") for letter in text)


def test_a_character_that_commands_is_spelled_out_and_any_other_is_as_it_was() -> None:
    assert shown(CLIPBOARD) == r"\x1b]52;c;cm0gLXJm\x07"
    assert shown("Grüße, 你好\n\tend") == "Grüße, 你好\n\tend"


def test_the_report_of_a_run_commands_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"".join(encode(event) + b"\n" for event in told()))
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    assert quiet(capsys.readouterr().out)


def test_the_console_of_a_run_commands_nothing() -> None:
    async def watched() -> str:
        err = io.StringIO()
        observer = ConsoleObserver(Console(mode="plain", every=1), Run("run", Path(), 0, Bus()), err=err)
        await observer.open()
        for event in told():
            await observer.observe(event)
        await observer.close()
        return err.getvalue()

    assert quiet(anyio.run(watched))


def test_what_is_wrong_with_an_input_commands_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_problems([Problem(LOUD, LOUD, LOUD)])
    output.table(("A",), [[LOUD]])
    captured = capsys.readouterr()
    assert quiet(captured.err)
    assert quiet(captured.out)


@pytest.mark.parametrize("command", [["data", "report"], ["evaluate"]])
def test_a_report_of_a_file_commands_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "id": f"{LOUD}{at}",
            "prompt": LOUD,
            "completions": ["a", "b"],
            "chosen": LOUD,
            "rejected": "b",
            "scores": [0.5, at],
            "pairs": [[0, 1]],
            "category": LOUD,
            "annotator": LOUD,
        }
        for at in range(3)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        main([*command, str(file), *(["--by", "category"] if command == ["evaluate"] else [])])
    captured = capsys.readouterr()
    assert quiet(captured.out + captured.err)

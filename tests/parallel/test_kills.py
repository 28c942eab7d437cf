"""A process that is killed ends the run within seconds, with a sentence, and the run goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.parallel.launching import Launched, metrics, run_folder

from truing.journal import Journal
from truing.run import Stopped
from truing_generate.engine import Engine
from truing_model.learner import Learner

Launch = Callable[..., Launched]
SHORT = ["source.size=32", "loop.epochs=1", "loop.checkpoint_every=2"]
SECONDS = 15.0


def killed_in(order: str, at: int, victim: int) -> Callable[[int], None]:
    """A process that is gone in the midst of what it does for the `at`-th time."""

    def prepare(rank: int) -> None:
        if rank != victim:
            return
        does: Any = getattr(Learner, order)
        calls: list[int] = []

        def die(learner: Learner, *given: Any) -> Any:
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return does(learner, *given)

        setattr(Learner, order, die)

    return prepare


@pytest.mark.parametrize(
    ("kind", "order", "at", "victim"),
    [
        ("ddp", "backward", 4, 1),
        ("fsdp", "backward", 4, 1),
        ("fsdp", "save", 2, 1),
        ("ddp", "save", 2, 0),
        ("fsdp", "backward", 4, 0),
    ],
)
def test_a_process_killed_while_it_learns_or_writes_ends_the_run_which_goes_on(
    kind: str, order: str, at: int, victim: int, launch: Launch, tmp_path: Path
) -> None:
    options = [part for each in [*SHORT, f"model.parallel.kind={kind}"] for part in ("--set", each)]
    launched = launch(2, "sft", *options, before=killed_in(order, at, victim))
    launched.until(lambda: gone(launched, victim))
    began = time.monotonic()
    ended, said = launched.ends(), launched.said
    assert time.monotonic() - began < SECONDS
    assert ended[victim] == -signal.SIGKILL, said
    assert ended[1 - victim] == 1, said
    assert f"process {victim} of 2" in said[1 - victim]
    assert "has gone" in said[1 - victim]
    assert "Traceback" not in said[1 - victim]
    goes_on(run_folder(tmp_path / "runs"), tmp_path)


def test_a_process_killed_while_the_first_samples_ends_the_run_which_goes_on(launch: Launch, tmp_path: Path) -> None:
    here = tmp_path / "here"

    def sample_for_ever(rank: int) -> None:
        speak, calls = Engine._speak, list[int]()

        def spoken(engine: Engine, under_way: Any) -> Any:
            calls.append(1)
            if len(calls) < 3:
                return speak(engine, under_way)
            here.touch()
            while not engine._run.stop:
                time.sleep(0.01)
            raise Stopped

        Engine._speak = spoken

    short = ["phase.sft.loop.steps=1", "phase.rl.loop.steps=3", "phase.rl.loop.checkpoint_every=1"]
    options = [part for each in short for part in ("--set", each)]
    launched = launch(2, "grpo", *options, before=sample_for_ever)
    launched.until(here.exists)
    launched.kill(1)
    began = time.monotonic()
    ended, said = launched.ends(), launched.said
    assert time.monotonic() - began < SECONDS
    assert ended == [1, -signal.SIGKILL], said
    assert "process 1 of 2" in said[0]
    assert "truing resume" in said[0]
    folder = run_folder(tmp_path / "runs")
    assert Journal(folder).read().status == "failed"
    goes_on(folder, tmp_path)


@pytest.mark.parametrize(("where", "says"), [(0, "ValueError: no room"), (1, "broke: ValueError: no room")])
def test_what_breaks_in_one_process_is_said_by_the_first_and_none_is_left_in_a_collective(
    where: int, says: str, launch: Launch
) -> None:
    def break_there(rank: int) -> None:
        def broken(learner: Learner, *given: object) -> None:
            raise ValueError("no room")

        if rank == where:
            Learner.forward = broken

    options = [part for each in [*SHORT, "model.parallel.kind=fsdp"] for part in ("--set", each)]
    launched = launch(2, "sft", *options, before=break_there)
    assert launched.ends(60)[0] == 1, launched.said
    assert says in launched.said[0]


def gone(launched: Launched, rank: int) -> bool:
    """Whether a process has ended, though nobody has asked how."""
    return Path(f"/proc/{launched.pids[rank]}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def goes_on(folder: Path, tmp_path: Path) -> None:
    """The run ends well, in one process, and from a checkpoint if there was one that is whole."""
    again = Launched(tmp_path, 1, ["resume", str(folder), "--quiet", "--processes", "1"])
    assert again.ends() == [0], again.said
    assert any(folder.rglob("model/model.safetensors"))
    assert max(step for _, _, step in metrics(folder)) >= 3

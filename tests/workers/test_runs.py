"""Runs whose generator is in a process of its own: what they come to is what they come to without."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.kernel.scenes import ends
from tests.kernel.test_engine_in_the_loop import text as text

from truing.conduct import conduct
from truing.events import Event, Notice, StepDone
from truing.journal import Journal
from truing.plugins import discover
from truing.replay import departures
from truing.run import Stop
from truing.script import Script
from truing.testing import recipe, run_recipe

pytest.importorskip("torch")

from truing_workers.process import Process

INSIDE = '[generator]\nuse = "process"\n[generator.generator]\nuse = "engine"'


class Murderer:
    """Kills the process of a generator behind the second step."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    async def open(self) -> None: ...

    async def observe(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            os.kill(self._processes[0].worker.pid, signal.SIGKILL)

    async def close(self) -> None: ...


def test_an_asynchronous_run_whose_process_is_killed_is_replayed_bit_for_bit_without_a_process(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[Process] = []
    real = Process.__init__

    def noted(self: Process, *given: Any) -> None:
        real(self, *given)
        processes.append(self)

    monkeypatch.setattr(Process, "__init__", noted)
    apart = recipe(text.replace('[generator]\nuse = "engine"', INSIDE))
    run = run_recipe(apart, tmp_path / "apart", extra=[Murderer(processes)])
    assert run.status == "finished"
    assert processes[0].deaths >= 1
    assert sum("started again" in event.text for event in run.events if isinstance(event, Notice)) >= 1
    ends(run.events)
    assert processes[0].worker.over.is_set(), "it ends with its phase"

    journal = Journal.create(tmp_path / "again", recipe(text), {})
    script = Script(run.events)
    assert anyio.run(partial(conduct, recipe(text), journal, discover(), Stop(), script=script)) == "finished"
    assert departures(Journal(run.folder), journal) == []

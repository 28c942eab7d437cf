"""Servers that are killed while a run samples from them, and started again: no group is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from truing.events import Event, StepDone

pytest.importorskip("torch")

from tests.network.learner import learned

ROOT = Path(__file__).parents[2]


class Host:
    """A server that can be killed and started again at the same address."""

    def __init__(self) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.network.serve", "127.0.0.1", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


class Murderer:
    """Kills servers behind some steps, and starts them again behind others."""

    def __init__(self, one: Host, other: Host) -> None:
        self.plan = {2: one.kill, 4: one.start, 6: other.kill, 8: other.start, 9: one.kill, 10: one.start}

    async def open(self) -> None: ...

    async def observe(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step in self.plan:
            self.plan[event.step]()

    async def close(self) -> None: ...


def test_servers_that_are_killed_and_started_again_in_turn_cost_no_group(tmp_path: Path) -> None:
    one, other = Host(), Host()
    try:
        whole = learned(tmp_path / "whole", 12, [one.url, other.url])
        shaken = learned(tmp_path / "shaken", 12, [one.url, other.url], extra=[Murderer(one, other)])
    finally:
        one.kill()
        other.kill()
    assert shaken["status"] == "finished"
    assert shaken["ends"] == whole["ends"] == {"kept": 48}
    assert (shaken["steps"], shaken["ids"]) == (whole["steps"], whole["ids"])
    assert shaken["oldest"] <= 1
    assert not [text for text in whole["notices"] if "left out" in text]
    assert sum("is left out, and what it had is asked of the others" in text for text in shaken["notices"]) >= 2
    assert sum("is back" in text for text in shaken["notices"]) >= 1

"""What the tests of the command share: toys that it finds as it finds any plugin, and ways to call it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from truing.cli import main
from truing.testing import TOY_RECIPE

TOY_PLUGIN = '''
"""The toys of truing.testing as a plugin, and a source that never gives anything."""

from typing import ClassVar

import anyio

from truing.plugins import hookimpl
from truing.testing import TOYS, ToySource, ToySourceSpec


class Stuck(ToySource):
    async def batches(self, size, epoch):
        await anyio.sleep(600)
        yield


class StuckSpec(ToySourceSpec, frozen=True, kw_only=True):
    """Never gives a group."""

    name: ClassVar[str] = "stuck"
    target: ClassVar[str] = "toy_plugin:Stuck"


@hookimpl
def truing_specs():
    return [*TOYS, StuckSpec]
'''


class Said(NamedTuple):
    """How a call of the command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Said]


def write_distribution(folder: Path, name: str, code: str, version: str = "1.0") -> None:
    """A distribution that brings one plugin module, as far as importlib.metadata looks."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}_dist-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[truing]\n{name} = {module}\n", encoding="utf-8")


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on the path, makes the toys an installed plugin."""
    folder = tmp_path_factory.mktemp("toys")
    write_distribution(folder, "toy-plugin", TOY_PLUGIN)
    return folder


@pytest.fixture
def install() -> Callable[..., None]:
    """Make an installed plugin of some code, in a folder on the path."""
    return write_distribution


@pytest.fixture
def here(tmp_path: Path, toys: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own with a toy recipe in it, the toys installed."""
    monkeypatch.syspath_prepend(str(toys))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUING_TRACEBACK", raising=False)
    monkeypatch.delenv("TRUING_BLOCK", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(toys))
    (tmp_path / "toy.toml").write_text(TOY_RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def truing(here: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Call the command in this process."""

    def call(*arguments: str) -> Said:
        capfd.readouterr()
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code or 0
        assert isinstance(status, int)
        return Said(status, *capfd.readouterr())

    return call


class Process:
    """The command in a process of its own, to be interrupted."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        command = [sys.executable, "-m", "truing", *arguments]
        self._folder = folder
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def until(self, text: str, seconds: float = 20.0) -> None:
        """Wait until some event of the run has this text in it."""
        deadline = time.monotonic() + seconds
        while not any(text in events.read_text() for events in self._folder.glob("runs/*/events.jsonl")):
            assert self._process.poll() is None, f"the command ended before {text}: {self._process.communicate()}"
            assert time.monotonic() < deadline, f"no {text} within {seconds} s"
            time.sleep(0.02)

    def hear(self, text: str) -> None:
        """Wait until the command says this on stderr."""
        assert self._process.stderr
        assert any(text in line for line in self._process.stderr), f"it ended without saying {text}"

    def end(self, seconds: float = 20.0) -> Said:
        out, err = self._process.communicate(timeout=seconds)
        return Said(self._process.returncode, out, err)


@pytest.fixture
def start(here: Path) -> Callable[..., Process]:
    """Start the command in a process of its own."""
    return lambda *arguments: Process(arguments, here)

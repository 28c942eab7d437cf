"""The command answers before a person wonders: nothing heavy is imported, and it takes a fraction of a second."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from truing.testing import HEAVY, importers

QUICK = [["--help"], ["check", "toy.toml"], ["list"], ["schema"], ["run", "--help"]]


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    looking = f"""
import sys
from truing.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *[name for name in {(*HEAVY, "rich")!r} if name in sys.modules])
"""
    command = [sys.executable, "-X", "importtime", "-c", looking, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_nothing_heavy_is_imported(here, arguments):
    asked = ask(*arguments)
    heavy = asked.stdout.splitlines()[-1].removeprefix("imported:").split()
    assert not heavy, f"{arguments} imports {importers(asked.stderr, heavy[0])}"


@pytest.mark.parametrize("arguments", QUICK[:2], ids=" ".join)
def test_the_command_answers_at_once(here, arguments):
    """0.3 s on the machine this was written on; the limit leaves room for a busy one."""
    seconds: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "truing", *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.5, f"best of three: {min(seconds):.2f} s"


def test_the_module_is_the_command(here):
    said = subprocess.run([sys.executable, "-m", "truing", "--version"], capture_output=True, text=True, env=os.environ)
    assert said.stdout.startswith("truing 0")

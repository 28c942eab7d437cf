"""How much memory a process of its own takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A process begins with the peak of the one it was forked from, which here would be that of all tests before. So a small
# one stands between.
_BETWEEN = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_bytes(command: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> int:
    """The most memory that a command took, what it imported among it. Raises CalledProcessError if it fails."""
    asked = [sys.executable, "-c", _BETWEEN, *command]
    told = subprocess.run(asked, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return int(told) * (1 if sys.platform == "darwin" else 1024)

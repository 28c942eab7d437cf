"""What runs first in a sandbox: hears what its part is, gives up what the part does not need, and plays it.

Started as a script, with its orders as its one argument. What it is asked and answers goes over what were its standard
input and output; the part itself prints into nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def main() -> None:
    """Play the part that the orders name."""
    orders: dict[str, Any] = json.loads(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from truing_reward.verifiers import isolation, remote, serving, unit_tests

    del sys.path[0]
    parts: dict[str, Callable[[BinaryIO, BinaryIO, Any], None]] = {
        "greet": _greet,
        "serve": serving.serve,
        "code": remote.serve,
        "tests": unit_tests.play,
    }
    hear, tell = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.close(nothing)
    part, given = parts[orders["part"]], orders["given"]
    sys.path[:0] = orders["path"]
    try:
        isolation.isolated(
            lambda: part(hear, tell, given),
            isolation.Limits(**orders["limits"]),
            [sys.base_prefix, *orders["path"]],
            orders["namespaces"],
        )
    except OSError as error:
        tell.write(json.dumps({"failed": error.strerror}).encode() + b"\n")


def _greet(hear: BinaryIO, tell: BinaryIO, given: Any) -> None:
    tell.write(b'{"ready": true}\n')


if __name__ == "__main__":
    main()

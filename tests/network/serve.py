"""A server for runs, in a process of its own: it writes as its version and its seeds have it.

python -m tests.network.serve 127.0.0.1 8000
"""

from __future__ import annotations

import sys
import threading

from tests.generate.fake import Asked, FakeServer, Reply

PACE = 0.05
"""seconds that a completion takes"""


class Served(FakeServer):
    """It has the weights it was told to read last; after a start, none."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.answer = self._say

    def _say(self, asked: Asked) -> Reply | None:
        if asked.path == "/collective_rpc":
            self.version = int(asked.body["kwargs"]["weights_path"].rpartition("-")[2])
        if asked.path == "/v1/completions":
            threading.Event().wait(PACE)
        return None


if __name__ == "__main__":
    with Served(sys.argv[1], int(sys.argv[2])):
        print("ready", flush=True)
        threading.Event().wait()

"""Messages over a stream between two processes: each a frame with its length before it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_LENGTH_BYTES = 8


class Frames:
    """One end of a stream. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()

    def send(self, content: bytes) -> None:
        """Raises OSError when nobody is at the other end."""
        with self._sending:
            self._end.sendall(len(content).to_bytes(_LENGTH_BYTES, "big") + content)

    def receive(self, most: int | None = None) -> bytes | None:
        """The next message; None when nobody is at the other end any more, and for one that is longer than `most`."""
        length = int.from_bytes(self._read(_LENGTH_BYTES), "big")
        return None if most is not None and length > most else self._read(length) or None

    def leave(self) -> None:
        """Say no more: the other end hears of it."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the end back."""
        self._end.close()

    def _read(self, count: int) -> bytes:
        read = bytearray(count)
        view = memoryview(read)
        while view:
            try:
                got = self._end.recv_into(view)
            except OSError:
                return b""
            if not got:
                return b""
            view = view[got:]
        return bytes(read)

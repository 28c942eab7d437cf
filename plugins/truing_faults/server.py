"""Stands before a server, in a thread for each request, and lets through what is not drawn to fail."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from truing.errors import Problem, UserError
from truing.events import Event
from truing.run import Run
from truing_faults import menu_places as menu
from truing_faults.chance import Chance
from truing_remote import addresses

_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class FaultyServer:
    """A server before a server, while it is open."""

    def __init__(self, spec: menu.FaultyServer, run: Run) -> None:
        self._spec, self._chance = spec, Chance(spec, run, "server")
        self._to = urlsplit(addresses.root(spec.to))
        self._gone_until = 0.0
        self._over = threading.Event()

    async def open(self) -> None:
        """Listen. Raises UserError where somebody else does."""
        try:
            self._http = _Http(("127.0.0.1", self._spec.port), _Request)
        except OSError as error:
            what = f"cannot listen on 127.0.0.1:{self._spec.port}: {error.strerror}"
            raise UserError(Problem('[observer] use = "faulty-server"', what, "name another port")) from None
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, name="a faulty server", daemon=True)
        self._thread.start()

    async def observe(self, event: Event) -> None:
        """It is no affair of a server what happens."""

    async def close(self) -> None:
        """Let go of all requests."""
        self._over.set()
        self._http.shutdown()
        self._http.server_close()

    def met(self) -> str:
        """What befalls the next request."""
        if self.gone:
            return "cut"
        what = self._chance.draw()
        if what == "kill":
            self._gone_until = time.monotonic() + self._spec.seconds
        if what in ("delay", "hang"):
            self._over.wait(self._spec.seconds if what == "delay" else None)
        return what

    @property
    def gone(self) -> bool:
        """Whether nobody is there."""
        return time.monotonic() < self._gone_until

    def ask(self, request: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server behind answers: status, headers, content. Raises OSError and HTTPException."""
        kind = http.client.HTTPSConnection if self._to.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._to.hostname or "", self._to.port)
        try:
            content = request.rfile.read(int(request.headers.get("content-length", 0)))
            headers = {name: value for name, value in request.headers.items() if _passes(name)}
            connection.request(request.command, self._to.path + request.path, content, headers)
            answer = connection.getresponse()
            return answer.status, [each for each in answer.getheaders() if _passes(each[0])], answer.read()
        finally:
            connection.close()


class _Http(ThreadingHTTPServer):
    owner: FaultyServer
    daemon_threads = True
    request_queue_size = 128


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass()

    do_POST = do_GET  # noqa: N815

    def _pass(self) -> None:
        assert isinstance(self.server, _Http)
        owner = self.server.owner
        what = owner.met()
        if what == "raise":
            self.close_connection = True
            self.send_error(500, "a fault that the recipe asks for")
            return
        try:
            status, headers, content = (0, [], b"") if what in ("cut", "kill", "hang") else owner.ask(self)
        except (OSError, http.client.HTTPException):
            status, headers, content = 0, [], b""
        self.close_connection = not status or owner.gone or what == "short"
        if not status or owner.gone:
            return
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if what == "short" else content)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # whoever asked is gone

    def log_message(self, format: str, *args: object) -> None:
        """What happens is written down elsewhere."""


def _passes(header: str) -> bool:
    return header.lower() not in _OF_ONE_CONNECTION

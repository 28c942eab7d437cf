"""A server on the loopback that speaks vLLM's dialect without a model: what it writes depends on the seed alone."""

from __future__ import annotations

import json
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

END = 256


class Asked(NamedTuple):
    """One request as it came. number counts those of the same path."""

    path: str
    body: Any
    headers: dict[str, str]
    number: int
    time: float


class Reply(NamedTuple):
    """What to answer. status 0: close the connection without a word; content: instead of JSON."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = {}
    content: bytes | None = None


def written(prompt: list[int], seed: int, longest: int, version: int = 0) -> tuple[list[int], list[float]]:
    """The tokens and log-probabilities of a completion."""
    draw = random.Random(f"{prompt} {seed} {version}")
    tokens = [draw.randrange(97, 123) for _ in range(draw.randint(1, longest + 2))]
    tokens = [*tokens, END] if len(tokens) < longest else tokens[:longest]
    return tokens, [-round(draw.random() + 0.1, 3) for _ in tokens]


def completion(asked: Asked, version: int = 0) -> dict[str, Any]:
    """The answer of vLLM to a request for a completion."""
    body = asked.body
    tokens, logprobs = written(body["prompt"], body["seed"], body["max_tokens"], version)
    choice = {
        "index": 0,
        "text": "".join(map(chr, tokens)).removesuffix(chr(END)),
        "finish_reason": "stop" if tokens[-1] == END else "length",
        "stop_reason": None,
        "token_ids": tokens,
        "prompt_token_ids": body["prompt"],
        "logprobs": {"token_logprobs": logprobs, "tokens": ["?"] * len(tokens)} if "logprobs" in body else None,
    }
    return {"id": "1", "object": "text_completion", "model": body["model"], "choices": [choice]}


class FakeServer:
    """answer: what to say to a request, None for what a healthy server says; called in the thread of the request.

    under_way and most_under_way count completions; left counts requests whose client went away before the answer.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answer: Callable[[Asked], Reply | None] = lambda asked: None
        self.asked: list[Asked] = []
        self.models = ["tiny"]
        self.version = 0
        self.under_way = self.most_under_way = self.left = 0
        self._lock = threading.Lock()
        self._http = _Http((host, port), _Handler)
        self._http.owner = self
        self.url = f"http://{host}:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        """The paths that were asked for, in their order."""
        return [asked.path for asked in self.asked]

    def bodies(self, path: str = "/v1/completions") -> list[Any]:
        return [asked.body for asked in self.asked if asked.path == path]

    def count(self, path: str = "/v1/completions") -> int:
        return Counter(self.paths())[path]

    def handle(self, path: str, body: Any, headers: dict[str, str]) -> Reply:
        with self._lock:
            asked = Asked(path, body, headers, self.count(path), time.monotonic())
            self.asked.append(asked)
            self.under_way += path.startswith("/v1/c")
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return self.answer(asked) or self._healthy(asked)
        finally:
            with self._lock:
                self.under_way -= path.startswith("/v1/c")

    def _healthy(self, asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return Reply({"object": "list", "data": [{"id": name} for name in self.models]})
        if asked.path == "/v1/completions":
            return Reply(completion(asked, self.version))
        if asked.path.startswith("/reset_prefix_cache"):
            return Reply({"success": True})
        return Reply({"status": "ok"})


class _Http(ThreadingHTTPServer):
    owner: FakeServer
    daemon_threads = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer(json.loads(content) if content else None)

    def _answer(self, body: Any) -> None:
        reply = self.server.owner.handle(self.path, body, {name.lower(): value for name, value in self.headers.items()})
        if reply.status == 0 or self._gone():
            self.server.owner.left += reply.status != 0
            self.close_connection = True
            return
        content = json.dumps(reply.body).encode() if reply.content is None else reply.content
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _gone(self) -> bool:
        """Whether the client closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.server.owner.left += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

"""The processes that a run was started with: a group of torch's for tensors, and a line from the first to each other.

    launcher -> RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT -> group -> the first listens, the others call it

Orders and what comes of them go over the lines, so a process that waits for work waits in no collective, however long
sampling takes; and a line that breaks says at once that somebody has gone. A caller shows a token that only the group
knows. Nothing that travels is pickled.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from truing.errors import RunFailed
from truing.fields import Batch
from truing_remote.frames import Frames
from truing_tensor.columns import Column, batch_of, columns_of

_TOGETHER_SECONDS = 60.0
"""how long the first process waits for the others to call, and they for its answer"""
_KNOWN_SECONDS = 5.0
"""how long it may take until a line says why a collective broke"""
_STUCK_SECONDS = 20.0
"""how long a collective may go on with somebody gone, until the process ends by itself: some never notice"""
_ADDRESS_BYTES = 1024
_BATCH = 1
_TEAM: list[Team] = []


class Called(msgspec.Struct, array_like=True):
    """Who calls, and that it may."""

    token: str
    rank: int
    pid: int
    host: str


class Order(msgspec.Struct, array_like=True):
    """What to do, and with what."""

    name: str
    arguments: list[Any]


class Answer(msgspec.Struct, array_like=True):
    """What came of an order. error: why it was not done, in words."""

    value: Any = None
    error: str = ""


class Line:
    """A line to another process. Whatever it says is kept until somebody listens. who: the other, in words. last: what
    it said last."""

    def __init__(self, end: socket.socket, who: str, gone: Callable[[Line], None]) -> None:
        self.who = who
        self.last = b""
        self._gone = gone
        self._frames = Frames(end)
        self._heard: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=self._listen, name=f"line to {who}", daemon=True).start()

    def say(self, message: Order | Answer) -> None:
        """What is said to nobody is not heard, and the line tells of that elsewhere."""
        with suppress(OSError):
            self._frames.send(_encode(message))

    def hear(self) -> bytes | None:
        """The next message, as it came; None when nobody is there any more."""
        return self._heard.get()

    def _listen(self) -> None:
        while (content := self._frames.receive()) is not None:
            self.last = content
            self._heard.put(content)
        self._gone(self)
        self._heard.put(None)


class Team:
    """All processes of a run, as one of them sees them. lines: of the first process to all others in their order; of
    another, to the first. lost: who has gone, in words, once somebody has."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self.lines: Sequence[Line] = ()
        self.lost = ""
        self.busy = False
        self.hears: Callable[[str], None] = _nobody
        self._known = threading.Event()
        self._over = False

    def explained(self, error: Exception, seconds: float = _KNOWN_SECONDS) -> Exception:
        """What broke: that somebody has gone, if that is why."""
        return RunFailed(self.lost) if self._known.wait(seconds) else error

    def end(self, well: bool) -> None:
        """The run is over, and the others may go. well: nobody is left in a collective."""
        self._over = True
        for line in self.lines:
            line.say(Order("end", []))
        if well:
            dist.destroy_process_group()
        _TEAM.clear()

    def gone(self, line: Line) -> None:
        """Hear that a line broke."""
        if self._over or self.lost:
            return
        why = answer_of(line.last).error if self.rank == 0 and line.last else ""
        self.lost = f"{line.who} {f'broke: {why}' if why else 'has gone, and the others cannot go on without it'}"
        self._known.set()
        self.hears(self.lost)
        stuck = threading.Timer(_STUCK_SECONDS, self._leave)
        stuck.daemon = True
        stuck.start()

    def _leave(self) -> None:
        if self.busy:
            print(f"truing: {self.lost}; this process hangs in a collective, and ends", file=sys.stderr, flush=True)
            os._exit(1)


def team() -> Team | None:
    """The processes that were started with this one; None if it is alone."""
    return _TEAM[0] if _TEAM else None


def assemble(rank: int, count: int, gpus: bool) -> Team:
    """Find the others. Called in each process, once. Raises RunFailed if they do not come."""
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    made = Team(rank, count)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", rank=rank, world_size=count)
        made.lines = _answered(made) if rank == 0 else [_called(made)]
    except (OSError, RuntimeError) as error:
        raise RunFailed(f"process {rank} of {count} does not find the others: {error}") from None
    _TEAM.append(made)
    return made


def _answered(made: Team) -> list[Line]:
    """Wait until all others have called. Whoever does not know the token is turned away."""
    alone = os.environ.get("LOCAL_WORLD_SIZE") == str(made.count)
    host = "127.0.0.1" if alone else ""
    token = secrets.token_hex(16)
    found: dict[int, Line] = {}
    with socket.create_server((host, 0), family=socket.AF_INET) as server:
        server.settimeout(_TOGETHER_SECONDS)
        places = [host] if alone else [os.environ["MASTER_ADDR"], socket.gethostname()]
        _broadcast(msgspec.json.encode([places, server.getsockname()[1], token, os.getpid()]))
        while len(found) < made.count - 1:
            end, _ = server.accept()
            end.settimeout(_TOGETHER_SECONDS)
            first = Frames(end).receive(_ADDRESS_BYTES)
            try:
                caller = msgspec.msgpack.decode(first or b"", type=Called)
            except msgspec.MsgspecError:
                end.close()
                continue
            if not hmac.compare_digest(caller.token.encode(), token.encode()):
                end.close()
                continue
            who = f"process {caller.rank} of {made.count} (pid {caller.pid} on {caller.host})"
            found[caller.rank] = Line(_kept_alive(end), who, made.gone)
    return [found[rank] for rank in range(1, made.count)]


def _called(made: Team) -> Line:
    """Call the first process."""
    places, port, token, pid = msgspec.json.decode(_broadcast(b""))
    for place in places:
        try:
            end = socket.create_connection((place, port), timeout=_TOGETHER_SECONDS)
            break
        except OSError as error:
            refused = error
    else:
        raise refused
    line = Line(_kept_alive(end), f"process 0 of {made.count} (pid {pid} on {places[0]})", made.gone)
    line._frames.send(msgspec.msgpack.encode(Called(token, made.rank, os.getpid(), socket.gethostname())))
    return line


def _broadcast(content: bytes) -> bytes:
    """What the first process says to all: text, since zeros behind it are taken off."""
    told = torch.zeros(_ADDRESS_BYTES, dtype=torch.uint8)
    told[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else told[:0]
    dist.broadcast(told, 0)
    return told.numpy().tobytes().rstrip(b"\0")


def _kept_alive(end: socket.socket) -> socket.socket:
    """A connection that notices within half a minute that the machine at the other end is gone."""
    end.settimeout(None)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return end


def _nobody(lost: str) -> None:
    pass


# --- what travels -----------------------------------------------------------------------------------------------------


def order_of(content: bytes) -> Order:
    """An order that came."""
    return msgspec.msgpack.decode(content, type=Order, ext_hook=_decoded)


def answer_of(content: bytes) -> Answer:
    """An answer that came."""
    return msgspec.msgpack.decode(content, type=Answer, ext_hook=_decoded)


def _encode(message: Order | Answer) -> bytes:
    return msgspec.msgpack.encode(message, enc_hook=_encoded)


def _encoded(value: Any) -> Any:
    if not isinstance(value, Batch):
        raise NotImplementedError
    return msgspec.msgpack.Ext(_BATCH, msgspec.msgpack.encode(columns_of(value, frozenset(value))))


def _decoded(code: int, data: memoryview) -> Any:
    assert code == _BATCH, "nothing else is written so"
    return batch_of(msgspec.msgpack.decode(data, type=list[Column]))

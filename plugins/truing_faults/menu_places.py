"""The menu of disks and servers that fail. They are observers, for they are there as long as a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.stage import Fault, ObserverSpec
from truing_faults.menu import Drawn, Share
from truing_remote import addresses


class FaultyDisk(Drawn, ObserverSpec, frozen=True, kw_only=True):
    """A disk that now and then does not take what this process writes into the run's folder.

    A call is a file that is opened for writing, renamed, or a folder that is made. A short write is a real one: for its
    time no file of the process may grow beyond a few bytes more. What a library writes without Python's knowing meets
    the short ones alone: `safetensors`, for one.
    """

    name: ClassVar[str] = "faulty-disk"
    target: ClassVar[str] = "truing_faults.disk:FaultyDisk"
    chances: ClassVar = {"slow": "slows", "full": "fulls", "readonly": "readonlys", "short": "shorts"}

    slows: Annotated[Share, Meta(description="share of writes that take `seconds` longer")] = 0.0
    fulls: Annotated[Share, Meta(description="share of writes for which there is no space")] = 0.0
    readonlys: Annotated[Share, Meta(description="share of writes that find the disk read-only")] = 0.0
    shorts: Annotated[Share, Meta(description="share of writes of which only the first bytes are taken")] = 0.0


class FaultyServer(Drawn, ObserverSpec, frozen=True, kw_only=True):
    """Stands before a server and now and then does not let a request or its answer through.

    A recipe names it as the server: `url = "http://127.0.0.1:9000"`. It listens on this machine alone.
    """

    name: ClassVar[str] = "faulty-server"
    target: ClassVar[str] = "truing_faults.server:FaultyServer"
    chances: ClassVar = {
        "delay": "delays",
        "raise": "raises",
        "hang": "hangs",
        "cut": "cuts",
        "short": "shorts",
        "kill": "kills",
    }

    to: Annotated[str, Meta(min_length=1, description="where the server is")]
    port: Annotated[int, Meta(ge=1, le=65535, description="where it listens, on 127.0.0.1")] = 9000
    delays: Annotated[Share, Meta(description="share of requests that are answered `seconds` later")] = 0.0
    raises: Annotated[Share, Meta(description="share of requests that are answered with status 500")] = 0.0
    hangs: Annotated[Share, Meta(description="share of requests that are not answered")] = 0.0
    cuts: Annotated[Share, Meta(description="share of requests whose connection is closed without a word")] = 0.0
    shorts: Annotated[Share, Meta(description="share of answers that break off in the middle")] = 0.0
    kills: Annotated[
        Share, Meta(description="share of requests at which it is gone for `seconds`, with all that is under way")
    ] = 0.0

    def problems(self) -> Iterator[Fault]:
        """What is no address."""
        yield from super().problems()
        yield from (fault._replace(option="to") for fault in addresses.problems(self.to, ""))

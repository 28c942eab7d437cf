"""An environment that answers whoever stops at a letter it knows with what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from truing.run import Run
from truing.stage import EnvironmentSpec, Reply, Said, Task

LETTERS = tuple(map(chr, range(33, 127, 2)))
"""so many that a model of random weights ends some turns with one"""


class Echo(EnvironmentSpec, frozen=True, kw_only=True):
    """Says what it heard."""

    name: ClassVar[str] = "echo"
    target: ClassVar[str] = "echo:Echoing"

    def stops(self) -> Sequence[str]:
        return LETTERS


class Echoing:
    def __init__(self, spec: Echo, run: Run) -> None:
        pass

    async def reset(self, task: Task) -> Echoing:
        return self

    async def step(self, said: Said) -> Reply:
        return Reply(said.text + said.ended_by, done=not said.ended_by)

    async def close(self) -> None:
        pass

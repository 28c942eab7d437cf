"""What the answers of a server that speaks the OpenAI protocol have in common, read strictly."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from truing.errors import Problem, RunFailed, UserError
from truing_remote.http import Ask, Server

T = TypeVar("T")


class Malformed(Exception):
    """What is wrong with an answer, and how to mend it, if that is known."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.mend = mend


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def read(answer: Any, kind: type[T]) -> T:
    """An answer as a struct of what is looked at in it. Raises Malformed."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise Malformed(f"the server's answer is none of the OpenAI protocol: {error}") from None


async def the_model(server: Server, ask: Ask) -> str:
    """The name of the only model that a server has. Raises UserError where there is not just one."""
    try:
        names = [model.id for model in read(await ask("GET", "/v1/models"), _Models).data]
    except Malformed as error:
        raise wrong(server, error) from None
    if len(names) != 1:
        mend = f"set model to one of: {', '.join(names[:12])}" if names else "set model"
        raise UserError(Problem(server.where, f"{server.url} serves {len(names)} models", mend))
    return names[0]


def wrong(server: Server, error: Malformed) -> Exception:
    """A server of another kind than the recipe says is the user's to mend; one that answers nonsense is not."""
    if error.mend:
        return UserError(Problem(server.where, f"{server.url}: {error}", error.mend))
    return RunFailed(f"{server.url}: {error}")

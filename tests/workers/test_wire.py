"""What goes to another process arrives as it was: batches, components, weights."""

from __future__ import annotations

import socket
import threading
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta

pytest.importorskip("torch")

import torch

from truing.errors import RunFailed
from truing.fields import IDS, PROMPTS, SEEDS, TOKENS, Batch, Field
from truing.stage import GeneratorSpec
from truing_remote.parts import packed, unpacked
from truing_tensor.columns import batch_of, columns_of
from truing_workers.memory import Memory, nameless
from truing_workers.wire import Ask, Link

from .stages import Numbers, Obedient

WIDE: Field[Any] = Field("wide", "seq", "bfloat16")


class Many(GeneratorSpec, frozen=True, kw_only=True):
    """A component with components of every form."""

    name: ClassVar[str] = "many"
    target: ClassVar[str] = "nowhere:Nothing"
    of: Annotated[dict[str, GeneratorSpec], Meta(description="by name")]
    some: Annotated[list[GeneratorSpec], Meta(description="a list")] = []
    one: Annotated[GeneratorSpec | None, Meta(description="one, or none")] = None
    lines: list[str] = []


def test_a_batch_arrives_as_it_was_sent() -> None:
    here, there = (Link(end) for end in socket.socketpair())
    batch = Batch(
        {
            IDS: ["a", "b"],
            SEEDS: [2**48 - 1, 0],
            PROMPTS: ["plain", [{"role": "user", "content": "é\0"}]],
            TOKENS: torch.tensor([], dtype=torch.int64),
            WIDE: torch.randn(300, 1000).bfloat16()[:, ::2],
        }
    )
    # More than a socket holds, so both ends must be at work.
    sending = threading.Thread(target=here.send, args=[Ask(3, columns_of(batch, frozenset(batch)))])
    sending.start()
    message = there.receive()
    sending.join()
    here.leave()
    assert there.receive() is None
    here.close()
    there.close()
    assert isinstance(message, Ask)
    found = batch_of(message.batch)
    assert set(found) == set(batch)
    for key in (IDS, SEEDS, PROMPTS):
        assert found[key] == batch[key]
    for key in (TOKENS, WIDE):
        assert found[key].dtype == batch[key].dtype
        assert torch.equal(found[key], batch[key])


def test_what_cannot_travel_stays_unless_it_is_needed() -> None:
    batch = Batch({IDS: ["a"], WIDE: [object()]})
    assert set(batch_of(columns_of(batch, frozenset([IDS])))) == {IDS}
    with pytest.raises(RunFailed, match="`wide` cannot be sent to another process"):
        columns_of(batch, frozenset([IDS, WIDE]))


def test_a_component_arrives_with_those_inside_of_it() -> None:
    inner = Many(of={"one": Obedient()}, lines=["a"])
    spec = Many(of={"of": inner, "b": Obedient()}, some=[Obedient(), inner], one=inner)
    assert unpacked(packed(spec)) == spec


def test_weights_that_changed_while_they_were_read_are_not_taken() -> None:
    written = Memory(nameless(), 2)
    read = Memory(written.number, 2)
    sheets = [written.write(copy, Numbers(copy, float(copy + 1), size=100_000)) for copy in (0, 1)]
    for copy, sheet in enumerate(sheets):
        read.verify(copy, sheet)
        assert [value.unique().tolist() for _, value in read.read(copy, sheet)] == [[copy + 1.0]] * 2
    half = dict(written.read(1, sheets[1]))["half"]
    half[70_000:] = 1.0
    read.verify(0, sheets[0])
    with pytest.raises(RunFailed, match="changed while they were read"):
        read.verify(1, sheets[1])

"""What the type checker knows. Read by pyright in strict mode, never run: `test_typing` holds every line to its word.

A line that must be an error carries an ignore comment; where the error is missing, the comment itself is one.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedExpression=false

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, assert_type

import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from torch import Tensor

import truing
from truing.bus import Bus
from truing.events import Event, Notice, StepDone
from truing.fields import ADVANTAGES, ANNOTATOR, COMPLETIONS, IDS, LOGPROBS, Batch, Field, Fields, Text, fields
from truing.registry import Registry
from truing.run import Run
from truing.stage import (
    AdvantageEstimator,
    AdvantageSpec,
    DataInfo,
    Generator,
    GeneratorSpec,
    Loss,
    LossSpec,
    LossValue,
    Model,
    ModelSpec,
    Observer,
    ObserverSpec,
    Optimizer,
    OptimizerSpec,
    Scorer,
    ScorerSpec,
    Source,
    SourceSpec,
    Spec,
    Term,
)

MINE: Field[dict[str, int]] = Field("mine", "group")


def a_field_decides_the_type_of_its_value(batch: Batch) -> None:
    assert_type(batch[ADVANTAGES], Tensor)
    assert_type(batch[IDS], list[str])
    assert_type(batch[COMPLETIONS], list[Text])
    assert_type(batch[ANNOTATOR], list[str])
    assert_type(batch[MINE], dict[str, int])
    assert_type(batch.put(MINE, {"a": 1}), Batch)
    assert_type(batch.only(fields(IDS)), Batch)
    assert_type(fields(IDS, MINE), Fields)
    batch.put(MINE, {"a": "b"})  # pyright: ignore[reportArgumentType]
    batch.put(IDS, [1])  # pyright: ignore[reportArgumentType]
    batch["ids"]  # pyright: ignore[reportArgumentType]
    batch[IDS] = ["a"]  # pyright: ignore[reportIndexIssue]


def a_registry_gives_specs_of_the_kind_that_was_asked_for(registry: Registry) -> None:
    assert_type(registry.get(LossSpec, "dpo"), type[LossSpec])
    assert_type(registry.get(SourceSpec, "jsonl"), type[SourceSpec])
    registry.get(Batch, "dpo")  # pyright: ignore[reportArgumentType]
    registry.get("loss", "dpo")  # pyright: ignore[reportArgumentType]


def a_spec_builds_its_own_kind_of_component(
    run: Run,
    source: SourceSpec,
    generator: GeneratorSpec,
    scorer: ScorerSpec,
    advantage: AdvantageSpec,
    model: ModelSpec,
    optimizer: OptimizerSpec,
    loss: LossSpec,
    observer: ObserverSpec,
) -> None:
    assert_type(source.build(run), Source)
    assert_type(generator.build(run), Generator)
    assert_type(scorer.build(run), Scorer)
    assert_type(advantage.build(run), AdvantageEstimator)
    assert_type(model.build(run), Model)
    assert_type(optimizer.build(run), Optimizer)
    assert_type(loss.build(run), Loss)
    assert_type(observer.build(run), Observer)


def a_spec_of_a_kind_is_one_of_all_kinds(loss: LossSpec) -> Spec[Loss]:
    general: Spec[Any] = loss
    general.build  # noqa: B018
    return loss


async def a_channel_carries_what_it_was_made_for(bus: Bus) -> None:
    send, receive = bus.channel(int, depth=1)
    assert_type(send, MemoryObjectSendStream[int])
    assert_type(receive, MemoryObjectReceiveStream[int])
    await send.send("1")  # pyright: ignore[reportArgumentType]


async def a_subscriber_gets_the_kinds_it_asked_for(bus: Bus) -> None:
    assert_type(bus.subscribe(StepDone), MemoryObjectReceiveStream[StepDone])
    assert_type(bus.subscribe(Event), MemoryObjectReceiveStream[Event])
    async for event in bus.subscribe(StepDone, Notice):
        assert_type(event, StepDone | Notice)
    bus.subscribe(int)  # pyright: ignore[reportArgumentType]
    bus.publish("done")  # pyright: ignore[reportArgumentType]


async def work_in_a_thread_keeps_its_type(run: Run) -> None:
    assert_type(await run.on_device(len, "abc"), int)
    assert_type(await run.unless_stopped(len, "abc"), int | None)
    assert_type(run.resolve("@sft"), str)


def the_face_of_the_package_is_typed() -> None:
    assert_type(truing.Batch(), Batch)
    assert_type(truing.discover().registry, Registry)


class Mine:
    """A source needs no base class."""

    async def open(self) -> DataInfo:
        return DataInfo("mine", "", 0, 0, "")

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        yield Batch()


class NotMine:
    async def open(self) -> None: ...


class MineSpec(SourceSpec, frozen=True, kw_only=True):
    name: ClassVar[str] = "mine"
    rows: int = 3


def hinge(batch: Batch, *, beta: float = 0.1) -> LossValue:
    return LossValue({"hinge": Term(beta * batch[LOGPROBS].sum(), "pair")})


def what_fits_a_protocol_is_accepted_and_what_does_not_is_refused() -> None:
    source: Source = Mine()
    loss: Loss = hinge
    other: Source = NotMine()  # pyright: ignore[reportAssignmentType]
    Term(Batch()[LOGPROBS], "sequence")  # pyright: ignore[reportArgumentType]
    print(source, other)
    assert_type(loss(Batch()), LossValue)


def the_options_of_a_spec_are_typed_and_fixed() -> None:
    spec = MineSpec(rows=4)
    assert_type(spec.rows, int)
    MineSpec(rows="4")  # pyright: ignore[reportArgumentType]
    MineSpec(row=4)  # pyright: ignore[reportCallIssue]
    spec.rows = 5  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(msgspec.structs.replace(spec, rows=5), MineSpec)

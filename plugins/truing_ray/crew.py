"""Actors, seen from the run: started, told of weights, asked, started again, ended."""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from truing.errors import Problem, RunFailed, UserError
from truing.events import Notice, decode
from truing.fields import IDS, Batch, Fields
from truing.run import Run, Stopped, gathered
from truing.stage import Weights
from truing_ray import plugin
from truing_remote.parts import error_of, part_of
from truing_tensor.columns import batch_of, columns_of
from truing_tensor.groups import join, take

try:
    from ray.exceptions import RayActorError, RayError

    import ray
except ImportError:
    missing = Problem('use = "ray"', "Ray is not installed", "pip install 'truing[ray]'")
    raise UserError(missing) from None

from truing_ray.actor import Answer, bytes_of, handle


class Died(Exception):
    """The actor ended before it answered."""


class Newest(NamedTuple):
    """The weights that came last, in the object store."""

    version: int
    origin: str
    content: Any


class Member:
    """An actor. told: the weights it was told of last. death: how it ended, once that is known."""

    def __init__(self, spec: plugin.Placed) -> None:
        self.actor = handle(spec.cpus, spec.gpus, spec.resources)
        self.told: Newest | None = None
        self.taking: Any = None
        self.starting: Any = None
        self.death: Died | None = None
        self._number = -1

    def call(self, method: str, *given: Any) -> tuple[int, Any]:
        """Give an order; its number, and what will come of it."""
        self._number += 1
        return self._number, getattr(self.actor, method).remote(self._number, *given)


class Crew:
    """Some actors that all do the same. `deaths` counts those that ended too soon."""

    def __init__(self, spec: plugin.Placed, run: Run) -> None:
        self._spec, self._run = spec, run
        self._where = f'[{spec.kind}] use = "ray"'
        self._newest: Newest | None = None
        self._reference: Any = None
        self.deaths = 0
        _connect(spec, self._where)
        self.members = [self._begin() for _ in range(spec.actors)]
        self._turns = [anyio.Lock() for _ in self.members]
        run.ends.append(weakref.finalize(self, _end, self.members))

    async def asked(self, method: str, batch: Batch, needed: Fields) -> Batch:
        """What the actors make of a batch, each of some groups. Raises what was raised there, UserError where they die
        too often, and Stopped."""
        count = len(batch[IDS])
        share = -(-count // len(self.members)) or 1
        pieces = [take(batch, range(at, min(at + share, count))) for at in range(0, count, share)] or [batch]
        works = [partial(self._made, at, method, piece, needed) for at, piece in enumerate(pieces)]
        return join(await gathered(works))

    async def sync(self, weights: Weights) -> None:
        """Have all sample from these weights from now on; the first call waits until they do. Raises UserError and
        RunFailed. A run that was asked to stop tells nobody."""
        first = self._newest is None
        content = await self._run.on_device(bytes_of, weights.tensors())
        self._newest = Newest(weights.version, weights.origin, await anyio.to_thread.run_sync(ray.put, content))
        try:
            for at, member in enumerate(self.members):
                if first:
                    await self._first(at, weights)
                elif member.told:
                    self._tell(member)
        except Stopped:
            return

    async def _first(self, at: int, weights: Weights) -> None:
        """Wait until an actor took the first weights; the reference is sent if it is wanted."""
        while True:
            member = await self._alive(at)
            try:
                if not (await self._settled(member.taking)).wants:
                    return
            except Died as death:
                member.death = death
                continue
            if self._reference is None:
                content = await self._run.on_device(bytes_of, weights.reference().tensors())
                self._reference = await anyio.to_thread.run_sync(ray.put, content)
            member.told = None

    async def _made(self, at: int, method: str, batch: Batch, needed: Fields) -> Batch:
        sent = msgspec.msgpack.encode(columns_of(batch, needed))
        while True:
            member = await self._alive(at)
            number, ref = member.call("work", method, sent)
            try:
                return batch_of((await self._settled(ref)).batch)
            except Died as death:
                member.death = death
            except (Stopped, anyio.get_cancelled_exc_class()):
                member.actor.let_go.remote(number)
                raise

    async def _alive(self, at: int) -> Member:
        """An actor that is ready, and told of the newest weights; another one if it has ended. Raises UserError."""
        async with self._turns[at]:
            while True:
                member = self.members[at]
                if member.death:
                    self.members[at] = self._again(member.death)
                    continue
                try:
                    with anyio.move_on_after(self._spec.start_seconds) as patience:
                        await self._settled(member.starting)
                except Died as death:
                    member.death = death
                    continue
                if patience.cancelled_caught:
                    has = ", ".join(
                        f"{count:g} {name}" for name, count in ray.cluster_resources().items() if "_" not in name
                    )
                    what = f"an actor was not ready in {self._spec.start_seconds:g} s; the cluster has {has}"
                    raise UserError(
                        Problem(self._where, what, "ask for less with cpus, gpus and actors, or for patience")
                    )
                self._tell(member)
                return member

    def _tell(self, member: Member) -> None:
        """Tell an actor of the newest weights, unless it was."""
        if self._newest and member.told is not self._newest:
            member.told = new = self._newest
            reference = [self._reference] if self._reference is not None else []
            # In a list Ray hands on what names the weights, and the actor fetches them when it is their turn.
            _, member.taking = member.call("take", new.version, new.origin, [new.content], reference)

    async def _settled(self, ref: Any) -> Answer:
        """What came of an order. Raises what was raised there, Died, and Stopped."""
        try:
            told = await self._run.or_stopped(lambda: asyncio.wrap_future(ref.future()))
        except RayActorError as error:
            raise Died(str(error).partition("\n")[0]) from None
        except RayError as error:
            raise RunFailed(f"{self._where}: {str(error).strip().splitlines()[-1]}") from None
        if told is None:
            raise Stopped
        answer = msgspec.msgpack.decode(told, type=Answer)
        for line in answer.said:
            if event := decode(line):
                self._run.bus.publish(event)
        if answer.failed:
            raise error_of(answer.failed)
        return answer

    def _begin(self) -> Member:
        run, member = self._run, Member(self._spec)
        order = part_of(self._spec.inside, run, max(1, int(self._spec.cpus)))
        _, member.starting = member.call("begin", msgspec.msgpack.encode(order))
        return member

    def _again(self, death: Died) -> Member:
        """Count an actor that died, and start another one. Raises UserError past the budget."""
        self.deaths += 1
        if self.deaths > self._spec.restarts:
            what = f"an actor died; they died {self.deaths} times, and restarts = {self._spec.restarts} allows no more"
            raise UserError(
                Problem(self._where, f"{what}: {death}", "SIGKILL is often the end of what takes too much memory")
            )
        count = f"{self.deaths} of {self._spec.restarts} restarts"
        text = f"{self._where}: an actor died and is started again with the newest weights, {count}: {death}"
        self._run.bus.publish(Notice(text=text, phase=self._run.phase))
        return self._begin()


def _connect(spec: plugin.Placed, where: str) -> None:
    """To the cluster, or to one of this machine that ends with this process. Raises UserError."""
    if ray.is_initialized():
        return
    here = not spec.address and "RAY_ADDRESS" not in os.environ
    # Elsewhere truing is installed; here actors find what this process finds.
    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}} if here else {}
    try:
        ray.init(address=spec.address or None, runtime_env=paths, include_dashboard=False, log_to_driver=False)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        what = f"cannot reach the cluster: {str(error).strip().splitlines()[0]}"
        raise UserError(
            Problem(where, what, "see `ray status`, and that address or RAY_ADDRESS names its head")
        ) from None


def _end(members: Sequence[Member]) -> None:
    if ray.is_initialized():
        for member in members:
            ray.kill(member.actor)

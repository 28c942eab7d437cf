"""A generator in a process of its own, seen from the run.

    sync_weights    the copy of the weights that nobody reads is written, and the process told of it
    generate        the prompts are sent, and the answer is waited for

Orders are done in the order in which they were given: what is asked for after new weights were told of is sampled from
them. So neither call waits for the other's work, but for one thing: the process is never more than two versions behind,
since there are two copies, and what it was told of and has not read is not written over.

A process that dies is counted and started again. It finds the newest weights where they are, and whoever waited for an
answer asks again.
"""

from __future__ import annotations

import concurrent.futures
import os
import weakref
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import anyio
import anyio.to_thread
import torch

from truing.errors import Problem, UserError
from truing.events import Notice, decode
from truing.fields import Batch
from truing.run import Run, Stopped
from truing.stage import Weights
from truing_remote import parts
from truing_remote.parts import Failed
from truing_tensor import columns
from truing_workers import plugin
from truing_workers.memory import Memory, nameless
from truing_workers.wire import Ask, Cancel, Done, Reference, Sheet, Start, Take, Wants
from truing_workers.worker import Died, Waiting, Worker

WHERE = '[generator] use = "process"'
_UNDER_WAY = 4
"""batches that the process has at a time; more wait here"""
_LET_GO_SECONDS = 10.0
"""how long the process may take to let go of what nobody waits for any more"""
_LEFT = ("", "group", "prompt_token")
"""dims of what a generator leaves on a batch as it is"""


class Newest(NamedTuple):
    """The weights that were written last, and in which copy they are."""

    version: int
    origin: str
    copy: int
    sheet: Sheet


class Process:
    """Asks a generator in another process. `worker` is that process, `deaths` counts those that ended too soon."""

    def __init__(self, spec: plugin.Process, run: Run) -> None:
        self._spec, self._run = spec, run
        self._weights, self._held_to = Memory(nameless(), spec.shared_copies), Memory(nameless(), 1)
        self._reference: Reference | None = None
        self._newest: Newest | None = None
        self._takes: list[Waiting | None] = [None] * spec.shared_copies
        self._turn = anyio.Lock()
        self._slots = anyio.Semaphore(_UNDER_WAY)
        self.deaths = 0
        self._workers: list[Worker] = []
        run.ends.append(weakref.finalize(self, _end, self._workers, (self._weights.number, self._held_to.number)))
        self._begin()

    @property
    def worker(self) -> Worker:
        """The process that works now."""
        return self._workers[-1]

    async def sync_weights(self, weights: Weights) -> None:
        """Have the process sample from these weights from now on; the first call waits until it does. Raises UserError
        and RunFailed, also for what came of weights before these. A run that was asked to stop tells nobody."""
        first = self._newest is None
        copy = 0 if self._newest is None else 1 - self._newest.copy
        try:
            await self._read(copy)
            sheet = await self._run.on_device(self._weights.write, copy, weights)
            self._newest = Newest(weights.version, weights.origin, copy, sheet)
            worker = await self._alive(first)
            while first and not await self._taken(worker, copy, weights):
                worker = await self._alive(first)
        except Stopped:
            return

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the completions of its prompts. Raises what the generator raised there, UserError where its
        process dies too often, and Stopped."""
        left = {key: value for key, value in batch.items() if key.dims in _LEFT}
        sent = batch.only(self._spec.requires() | left.keys())
        async with self._slots:
            while True:
                worker = await self._alive()
                try:
                    made = await self._made(worker, sent)
                except Died:
                    continue
                finally:
                    self._publish(worker)
                new = {key: value for key, value in made.items() if key not in left or key in self._spec.provides()}
                return Batch(left).put_all(new)

    async def _made(self, worker: Worker, prompts: Batch) -> Batch:
        """What comes back for prompts. Raises Died."""
        number, waiting = worker.expect()
        try:
            await anyio.to_thread.run_sync(worker.send, Ask(number, columns.columns_of(prompts, self._spec.requires())))
            answer = await self._settled(waiting)
        finally:
            if not waiting.done():
                await _let_go(worker, number, waiting)
        assert isinstance(answer, Done)
        return columns.batch_of(answer.batch)

    async def _read(self, copy: int) -> None:
        """Wait until a copy may be written: the process has read it, or has ended."""
        taking = self._takes[copy]
        if taking is not None:
            try:
                await self._settled(taking)
            except Died:
                return

    async def _taken(self, worker: Worker, copy: int, weights: Weights) -> bool:
        """Whether the process took the first weights; the reference is told of if it is wanted."""
        taking = self._takes[copy]
        assert taking
        try:
            answer = await self._settled(taking)
        except Died:
            return False
        if isinstance(answer, Done):
            return True
        assert isinstance(answer, Wants)
        reference = weights.reference()
        sheet = await self._run.on_device(self._held_to.write, 0, reference)
        number, self._takes[copy] = worker.expect(answer.number)
        self._reference = Reference(number, reference.version, reference.origin, sheet)
        worker.send(self._reference)
        return False

    async def _alive(self, first: bool = False) -> Worker:
        """The process, ready, and told of the newest weights; another one if it has ended. Raises UserError where it
        ended too often."""
        async with self._turn:
            while not await self._ready():
                self._again()
            worker = self.worker
            if self._newest is not None and self._newest is not self._told:
                self._told = new = self._newest
                number, self._takes[new.copy] = worker.expect()
                worker.send(Take(number, new.version, new.origin, new.copy, new.sheet, self._reference, first))
            return worker

    async def _ready(self) -> bool:
        """Whether the process works, once it is ready; False if it has ended. Raises UserError when it takes too long,
        and what building the generator raised there."""
        try:
            with anyio.move_on_after(self._spec.start_seconds) as patience:
                await self._settled(self._started)
        except Died:
            return False
        if patience.cancelled_caught:
            self.worker.kill("it was not ready in time")
            what = f"its process was not ready in {self._spec.start_seconds:g} s"
            raise UserError(Problem(WHERE, what, self._mend("raise start_seconds")))
        return not self.worker.over.is_set()

    async def _settled(self, waiting: Waiting) -> Done | Wants:
        """What came of an order. Raises what was raised there, Died, and Stopped."""
        answer = waiting.result() if waiting.done() else await self._run.or_stopped(partial(_result, waiting))
        if answer is None:
            raise Stopped
        if isinstance(answer, Failed):
            raise parts.error_of(answer)
        return answer

    def _begin(self) -> None:
        """Start a process."""
        run, spec = self._run, self._spec
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus))} if spec.gpus else {}
        threads = spec.threads or torch.get_num_threads()
        memories = (self._weights.number, self._held_to.number)
        worker = Worker(self._log, memories, {**environment, "OMP_NUM_THREADS": str(threads)})
        number, self._started = worker.expect()
        worker.send(Start(number, parts.part_of(spec.generator, run, threads), spec.cores))
        self._workers.append(worker)
        self._told: Newest | None = None

    def _again(self) -> None:
        """Count a process that died, and start another one. Raises UserError past the budget."""
        self.deaths += 1
        how = f"its process {self.worker.how()}"
        if self.deaths > self._spec.restarts:
            what = f"{how}; it died {self.deaths} times, and restarts = {self._spec.restarts} allows no more"
            raise UserError(Problem(WHERE, what, self._mend("SIGKILL is often the end of what takes too much memory")))
        count = f"{self.deaths} of {self._spec.restarts} restarts"
        text = (
            f"{WHERE}: {how} and is started again with the newest weights, {count}; what it printed is in {self._log}"
        )
        self._run.bus.publish(Notice(text=text, phase=self._run.phase))
        self._begin()

    def _mend(self, hint: str) -> str:
        """A hint, and what the process printed last."""
        words = self.worker.last_words()
        said = [f"it printed last, into {self._log}:", *(f"  {line}" for line in words)] if words else []
        return ("\n" + " " * (len(WHERE) + 2)).join([hint, *said])

    @property
    def _log(self) -> os.PathLike[str]:
        return self._run.phase_folder / "generator.log"

    def _publish(self, worker: Worker) -> None:
        """Hand on the events that were published there."""
        while not worker.said.empty():
            if event := decode(worker.said.get()):
                self._run.bus.publish(event)


async def _result(waiting: Waiting) -> Done | Failed | Wants:
    return await anyio.to_thread.run_sync(waiting.result, abandon_on_cancel=True)


async def _let_go(worker: Worker, number: int, waiting: Waiting) -> None:
    """Tell the process that nobody waits any more. One that does not let go is killed: it would keep others waiting."""
    with anyio.CancelScope(shield=True):
        worker.send(Cancel(number))
        done = partial(concurrent.futures.wait, [waiting], _LET_GO_SECONDS)
        if not (await anyio.to_thread.run_sync(done)).done:
            worker.kill(f"in {_LET_GO_SECONDS:g} s it did not let go of what nobody waited for")


def _end(workers: Sequence[Worker], memories: Sequence[int]) -> None:
    """End the process that works, and give the memory back."""
    for worker in workers[-1:]:
        worker.end()
    for number in memories:
        os.close(number)

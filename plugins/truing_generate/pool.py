"""Several servers as one generator: whichever has a place free takes the next prompt.

    prompts --> [ waiting ] --> server, server, server --> completions
                     ^                |
                     +--- it is gone -+

A server is up from when it answers and has the newest weights until it does not answer any more: to a request, with all
its retries, or when it is asked several times how it is. Then what it had under way waits again, before all others. One
that is back is up again when it has read the newest weights, which lie where they were written.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from truing.errors import Problem, RunFailed, UserError, first_cause
from truing.events import Notice
from truing.fields import Batch
from truing.groups import part
from truing.run import Run
from truing.stage import Weights
from truing_generate import disk, plugin
from truing_generate.completions import Completion, Seeds, Wanted
from truing_generate.openai import OpenAi
from truing_remote.http import START, Absent, Gone

WHERE = '[generator] use = "openai-pool"'
_MISSES = 3
"""how often a server may leave it unsaid how it is before it is left out"""


class Member:
    """A server. up: it can be asked. misses: how often, at last, it did not say how it is. why: the last reason.
    serving: what it is asked for, to be called off when it goes."""

    def __init__(self, server: OpenAi) -> None:
        self.server = server
        self.up = self.known = False
        self.misses, self.why = 0, ""
        self.version: int | None = None
        self.reading = anyio.Lock()
        self.serving: set[anyio.CancelScope] = set()


class Job:
    """Prompts to be completed, by their place in a batch. waiting: those that nobody works on."""

    def __init__(self, batch: Batch, seeds: list[list[int]], wanted: Wanted) -> None:
        self.batch, self.seeds, self.wanted = batch, seeds, wanted
        self.waiting = deque(range(len(seeds)))
        self.answers: dict[int, list[Completion]] = {}
        self.staff: set[Member] = set()
        self.done, self._more = anyio.Event(), anyio.Event()
        if not seeds:
            self.done.set()

    async def take(self) -> int:
        """The next prompt; waits until there is one."""
        while not self.waiting:
            await self._more.wait()
        return self.waiting.popleft()

    def give_back(self, at: int) -> None:
        """A prompt that was not completed."""
        self.waiting.appendleft(at)
        self._more.set()
        self._more = anyio.Event()

    def answer(self, at: int, completions: list[Completion]) -> None:
        """The completions of a prompt."""
        self.answers[at] = completions
        if len(self.answers) == len(self.seeds):
            self.done.set()


class OpenAiPool:
    """Generators behind several addresses."""

    def __init__(self, spec: plugin.OpenAiPool, run: Run) -> None:
        self._spec, self._run = spec, run
        shared: dict[str, Any] = {
            option.name: getattr(spec, option.name) for option in msgspec.structs.fields(plugin.ServedSpec)
        }
        self._members = [Member(plugin.OpenAi(**shared, url=url).build(run)) for url in spec.urls]  # pyright: ignore
        self._seeds = Seeds(run)
        self._newest: tuple[Path, int] | None = None
        self._checking = anyio.Lock()
        self._told_none = False

    async def generate(self, batch: Batch) -> Batch:
        """Every prompt with its completions. Raises UserError where no server is there, or one refuses, and RunFailed
        for an answer that cannot be."""
        wanted = Wanted.of(batch, self._spec.samples, temperature=self._spec.temperature)
        version = self._newest[1] if self._newest else 0
        job = Job(batch, self._seeds.draw(batch, version, wanted.samples), wanted)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._staff, job, tasks)
                await job.done.wait()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        groups = [job.answers[at] for at in range(len(job.seeds))]
        return self._members[0].server.batch(batch, groups, wanted)

    async def sync_weights(self, weights: Weights) -> None:
        """Write the weights once, and let every server that is up read them; the others do when they are back."""
        if self._spec.sync == "none":
            if not self._told_none:
                self._tell('the servers keep the model they have: sync = "none"')
            self._told_none = True
            return
        written = await self._members[0].server.write(weights)
        self._newest = written, weights.version
        try:
            async with anyio.create_task_group() as tasks:
                for member in self._members:
                    if member.up or not member.misses:
                        tasks.start_soon(self._update, member)
            await self._somebody()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        await anyio.to_thread.run_sync(disk.keep_only, written)

    async def _staff(self, job: Job, tasks: TaskGroup) -> None:
        """Let every server that is up, or comes to be, work on a job."""
        while True:
            await self._somebody()
            for member in self._members:
                if member.up and member not in job.staff:
                    job.staff.add(member)
                    tasks.start_soon(self._serve, member, job)
            if not await self._check():
                await anyio.sleep(self._spec.check_seconds)

    async def _serve(self, member: Member, job: Job) -> None:
        """Have one server work on a job for as long as it is up."""
        places = -(-self._spec.concurrency // job.wanted.samples)
        with anyio.CancelScope() as scope:
            member.serving.add(scope)
            async with anyio.create_task_group() as tasks:
                for _ in range(min(places, len(job.seeds))):
                    tasks.start_soon(self._work, member, job)
        member.serving.discard(scope)
        job.staff.discard(member)

    async def _work(self, member: Member, job: Job) -> None:
        while True:
            at = await job.take()
            try:
                [found] = await member.server.complete(part(job.batch, [at]), [job.seeds[at]], job.wanted)
                job.answer(at, found)
            except (Absent, Gone) as error:
                self._lose(member, str(error))
                return
            finally:
                if at not in job.answers:
                    job.give_back(at)

    async def _somebody(self) -> None:
        """Wait until a server is up. Raises UserError when that takes too long."""
        with anyio.move_on_after(self._spec.wait_seconds) as patience:
            while not any(member.up for member in self._members):
                if not await self._check():
                    await anyio.sleep(self._spec.check_seconds)
        if patience.cancelled_caught:
            why = "; ".join(member.why for member in self._members)
            what = f"none of {len(self._members)} servers answers for {self._spec.wait_seconds:g} s: {why}"
            raise UserError(Problem(WHERE, what, START))

    async def _check(self) -> bool:
        """Ask every server how it is; whether any went or came."""
        async with self._checking:
            before = [member.up for member in self._members]
            # A batch that is done sooner must not keep a server from coming back, batch after batch.
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    for member in self._members:
                        tasks.start_soon(self._look, member)
            return before != [member.up for member in self._members]

    async def _look(self, member: Member) -> None:
        try:
            with anyio.fail_after(self._spec.check_seconds):
                await member.server.check()
        except (Absent, Gone, TimeoutError) as error:
            member.misses += 1
            member.why = str(error) or f"{member.server.url} does not say how it is"
            if member.up and member.misses >= _MISSES:
                self._lose(member, member.why)
            return
        member.misses = 0
        if not member.up:
            await self._update(member)

    async def _update(self, member: Member) -> None:
        """Have a server read the newest weights, if it has others; then it is up."""
        async with member.reading:
            try:
                while self._newest and member.version != self._newest[1]:
                    written, version = self._newest
                    await member.server.read(written, version)
                    member.version = version
            except (Absent, RunFailed) as error:
                member.why = str(error)
                self._lose(member, member.why)
                return
        if not member.up and member.known:
            self._tell(f"{member.server.url} is back")
        member.up = member.known = True

    def _lose(self, member: Member, why: str) -> None:
        """Leave a server out, and call off what it has under way."""
        member.version = None
        if member.up:
            member.up, member.why = False, why
            self._tell(f"{member.server.url} is left out, and what it had is asked of the others: {why}")
            for scope in list(member.serving):
                scope.cancel()

    def _tell(self, text: str) -> None:
        self._run.bus.publish(Notice(text=text, phase=self._run.phase))

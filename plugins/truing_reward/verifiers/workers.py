"""Processes that judge what a model wrote, asked again and again, so that libraries may be slow or break without harm.

One for each core at most, started when the others are busy. One that is late or ended is replaced.
"""

from __future__ import annotations

import json
import sys
import weakref
from typing import Any

import anyio

from truing.errors import Problem, UserError
from truing.events import Notice
from truing.run import Run
from truing_reward.verifiers.sandbox import Ended, Late, Sandbox, Watch, attended, cores
from truing_reward.verifiers.verdict import Verdict

LIMITS = {"memory": 4096, "disk": 16, "cpu": 0, "processes": 32}
"""Of libraries and what they compute. What a completion may take of a processor is counted for each anew."""


class Workers:
    """Judges of one kind. module: has `prepare(options)`. The first is started at once.

    Raises UserError where a judge cannot be made: for its options, or because nothing can be isolated here.
    """

    def __init__(self, name: str, module: str, options: dict[str, Any], seconds: float, run: Run) -> None:
        self._name = name
        given = {"module": module, "options": options, "seconds": seconds}
        self._orders = json.dumps(given).encode() + b"\n"
        self._seconds = seconds
        self._namespaces = True
        self._slots = anyio.CapacityLimiter(cores())
        self._idle: list[Sandbox] = []
        self._all: set[Sandbox] = set()
        weakref.finalize(self, _end_all, self._all)
        try:
            self._idle.append(self._started())
        except UserError:
            self._namespaces = False
            self._idle.append(self._started())
            text = (
                f"{name}: this system does not let it work in namespaces, so what it computes is limited, not isolated"
            )
            run.bus.publish(Notice(text=text, phase=run.phase))

    async def judged(self, text: str, truth: Any) -> Verdict:
        """The verdict on one completion, once there is a worker for it."""
        question = json.dumps([text, truth]).encode() + b"\n"
        return await attended(lambda watch: self._ask(question, watch), self._slots)

    def _ask(self, question: bytes, watch: Watch) -> Verdict:
        worker = self._idle.pop() if self._idle else self._started()
        watch.over(worker)
        try:
            verdict = Verdict(*worker.ask(question, self._seconds))
        except (Late, Ended) as error:
            self._drop(worker)
            return Verdict(0.0, "slow" if isinstance(error, Late) else "broken")
        self._idle.append(worker)
        return verdict

    def _started(self) -> Sandbox:
        path = list(dict.fromkeys(filter(None, sys.path)))
        worker = Sandbox("serve", None, LIMITS, self._namespaces, path=path)
        self._all.add(worker)
        if failed := worker.met(self._orders):
            self._drop(worker)
            raise UserError(Problem(f'scorer "{self._name}"', f"cannot judge: {failed}"))
        return worker

    def _drop(self, worker: Sandbox) -> None:
        worker.end()
        self._all.discard(worker)


def _end_all(workers: set[Sandbox]) -> None:
    for worker in workers:
        worker.end()

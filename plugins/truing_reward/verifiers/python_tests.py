"""Code that a model wrote, run against tests: two sandboxes for every completion, and a verdict from the second alone.

    code   <--- calls, plain data --->   tests   --- how many passed --->   here

See `remote` for why the two are apart.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import anyio

from truing.errors import Problem, UserError
from truing.run import Run
from truing_reward.menu_verifiers import PythonTests as Spec
from truing_reward.verifiers import reading
from truing_reward.verifiers.sandbox import Ended, Late, Sandbox, Watch, attended, cores, refusal
from truing_reward.verifiers.scoring import Scoring
from truing_reward.verifiers.verdict import Verdict


class PythonTests(Scoring[Spec]):
    """Says whether code passes its tests. Raises UserError where the sandbox that is asked for cannot be made."""

    def __init__(self, spec: Spec, run: Run) -> None:
        super().__init__(spec, run)
        self._slots = anyio.CapacityLimiter(cores())
        if said := refusal(spec.sandbox == "namespaces"):
            mend = (
                'sandbox = "limits" runs it as you, with your files and your network: for code you would run yourself'
            )
            raise UserError(Problem('scorer "python-tests"', f"no sandbox here: {said}", mend))

    async def judged(self, text: str, truth: str) -> Verdict:
        """The verdict on one completion. truth: its tests."""
        work = json.dumps({"code": reading.code(text), "tests": reading.code(truth)}).encode() + b"\n"
        return await attended(lambda watch: self._tried(work, watch), self._slots)

    def _tried(self, work: bytes, watch: Watch) -> Verdict:
        asked, answered = os.pipe(), os.pipe()
        pipes = [*asked, *answered]
        begun: list[Sandbox] = []
        try:
            begun.append(self._sandbox("code", None, stdin=asked[0], stdout=answered[1]))
            ends = {"hear": answered[0], "tell": asked[1]}
            begun.append(self._sandbox("tests", ends, pass_fds=tuple(ends.values())))
            # What is open here too would keep one of them from hearing that the other ended.
            while pipes:
                os.close(pipes.pop())
            for sandbox in begun:
                watch.over(sandbox)
            passed, count = begun[-1].ask(work, self.spec.seconds)
        except (Late, Ended) as error:
            return Verdict(0.0, "slow" if isinstance(error, Late) else "broken")
        finally:
            for pipe in pipes:
                os.close(pipe)
            for sandbox in begun:
                sandbox.end()
        if not count:
            return Verdict(0.0, "unknown")
        return Verdict(passed / count if self.spec.partial else float(passed == count))

    def _sandbox(self, part: str, ends: dict[str, int] | None, **streams: Any) -> Sandbox:
        spec = self.spec
        given = None if ends is None else {**ends, "partial": spec.partial}
        limits = {
            "memory": spec.memory,
            "disk": spec.disk,
            "cpu": math.ceil(spec.seconds) + 1,
            "processes": spec.processes,
        }
        return Sandbox(part, given, limits, spec.sandbox == "namespaces", **streams)

"""The verifiers that a judge is all of: in this process, or in workers."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import msgspec

from truing.run import Run
from truing_reward import menu_verifiers as menu
from truing_reward.verifiers import matching
from truing_reward.verifiers.scoring import Scoring
from truing_reward.verifiers.verdict import Verdict
from truing_reward.verifiers.workers import Workers

T = TypeVar("T", bound=menu.Timed)


class Match(Scoring[menu.Match]):
    """Says whether a completion is the answer, or how close it comes."""

    def __init__(self, spec: menu.Match, run: Run) -> None:
        super().__init__(spec, run)
        self._judge = matching.match(spec)

    async def judged(self, text: str, truth: str) -> Verdict:
        """The verdict on one completion."""
        return self._judge(text, truth)


class Number(Scoring[menu.Number]):
    """Says whether a completion ends in the right number."""

    def __init__(self, spec: menu.Number, run: Run) -> None:
        super().__init__(spec, run)
        self._judge = matching.number(spec)

    async def judged(self, text: str, truth: str) -> Verdict:
        """The verdict on one completion."""
        return self._judge(text, truth)


class _Asked(Scoring[T]):
    """A verifier whose judge works in processes of its own. Raises UserError where it cannot be made."""

    judge: ClassVar[str]

    def __init__(self, spec: T, run: Run) -> None:
        super().__init__(spec, run)
        self._workers = Workers(spec.name, f"truing_reward.verifiers.{self.judge}", self.options(), spec.seconds, run)

    def options(self) -> dict[str, Any]:
        """What the judge is told of the spec."""
        return msgspec.structs.asdict(self.spec)

    async def judged(self, text: str, truth: Any) -> Verdict:
        """The verdict on one completion."""
        return await self._workers.judged(text, truth)


class Math(_Asked[menu.Math]):
    """Says whether an answer is worth the known one."""

    judge = "mathematics"


class Regex(_Asked[menu.Regex]):
    """Says whether a pattern is found."""

    judge = "pattern"


class JsonSchema(_Asked[menu.JsonSchema]):
    """Says whether a completion is JSON of the right form."""

    judge = "schema"

    def options(self) -> dict[str, Any]:
        """The schema itself, wherever it stands."""
        return {"schema": self.spec.read(), "valid": self.spec.valid}


class Puzzle(_Asked[menu.Puzzle]):
    """Says what a task gives for an answer."""

    judge = "puzzle"

"""What a failure costs: the group it is about, and the run only when there are too many.

A stage is asked for all groups of a wave at once. If it raises, takes too long or answers what is no answer, it is
asked again for each group alone, and those it fails on once more are lost: each is said in a `GroupFailed`. A user's
mistake ends the run at once: it would meet every group.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, cast

import anyio
import msgspec
from msgspec import Meta

from truing.errors import RunFailed, TruingError, UserError, first_cause
from truing.events import GroupFailed, Notice, StageEnded
from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    METADATA,
    PROMPTS,
    SCORE_PARTS,
    VERSION,
    Batch,
    Field,
)
from truing.groups import COUNTED_BY, joined, part, plain
from truing.run import Run, Stopped
from truing.script import SAMPLING, Turns

Work = Callable[[Batch], Awaitable[Batch]]


class Failures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may go wrong before the phase does."""

    in_a_row: Annotated[
        int, Meta(ge=0, description="how many groups one after another a stage may fail on; the next stops the run")
    ] = 8
    share: Annotated[
        float,
        Meta(ge=0, le=1, description="share of the groups read so far that may fail, where that is more than in_a_row"),
    ] = 0.1
    generate_seconds: Annotated[
        float, Meta(ge=0, description="longest time in which the generator must answer for a wave; 0: no limit")
    ] = 3600.0
    score_seconds: Annotated[
        float, Meta(ge=0, description="longest time in which the scorer must answer for a wave; 0: no limit")
    ] = 3600.0

    read_seconds: Annotated[
        float, Meta(ge=0, description="longest time in which the source must give its next batch; 0: no limit")
    ] = 3600.0

    def seconds(self, stage: str) -> float:
        """The time limit of a stage."""
        return (self.generate_seconds if stage == SAMPLING else self.score_seconds) or math.inf


class Attempts:
    """Asks the stages of a phase, counts what they fail on, and ends the run past the budget."""

    def __init__(self, run: Run, failures: Failures, turns: Turns | None = None) -> None:
        self._run = run
        self._failures = failures
        self._turns = turns or Turns()
        self._row: Counter[str] = Counter()
        self.read = self.failed = 0
        self.last = ""
        """the last failure, in words"""

    async def __call__(self, stage: str, work: Work, batch: Batch, wave: int) -> Batch:
        """What a stage answers, for those groups of a batch on which it does not fail. Raises RunFailed past the
        budget, UserError and Stopped."""
        script = self._run.script
        if script and wave and (script.calls(self._run.phase, wave, stage) or script.failed(self._run.phase, wave)):
            return await self._again(stage, work, batch, wave)
        answer = await self._once(stage, work, batch, wave)
        if isinstance(answer, Batch):
            return answer
        if len(batch[IDS]) > 1:
            what = f"{stage} failed on {len(batch[IDS])} groups and is asked for each alone: {_told(answer)}"
            self._run.bus.publish(Notice(phase=self._run.phase, text=what))
        answers: list[Batch] = []
        for at, name in enumerate(batch[IDS]):
            if len(batch[IDS]) > 1:
                answer = await self._once(stage, work, part(batch, [at]), wave, alone=True)
            if isinstance(answer, Batch):
                answers.append(answer)
            else:
                self._lose(stage, name, answer, wave)
        return joined(answers) if answers else part(batch, [])

    async def in_time(self, sync: Callable[[], Awaitable[None]]) -> None:
        """Have the generator take new weights. Raises RunFailed when it does not come to an end."""
        seconds = self._failures.seconds(SAMPLING)
        with anyio.move_on_after(seconds) as patience:
            await sync()
        if patience.cancelled_caught:
            raise RunFailed(f"the generator did not take new weights within {seconds:g} s (loop.failures)")

    async def _once(self, stage: str, work: Work, batch: Batch, wave: int, *, alone: bool = False) -> Batch | Exception:
        """The answer of a stage, or what was wrong with it."""
        began, answer = time.time(), None
        seconds = self._failures.seconds(stage)
        try:
            with anyio.move_on_after(seconds):
                answer = await work(batch)
            wrong = fault(batch, answer) if answer is not None else f"no answer within {seconds:g} s"
        except Exception as error:
            cause = first_cause(error)
            if isinstance(cause, Stopped | UserError) or not isinstance(cause, Exception):
                raise cause from None
            return cause
        if answer is None or wrong:
            return RunFailed(wrong)
        version = _version(answer) if stage == SAMPLING else -1
        self._row[stage] = 0
        self._run.bus.publish(
            StageEnded(
                phase=self._run.phase,
                stage=stage,
                wave=wave,
                began=began,
                seconds=time.time() - began,
                version=version,
                ids=list(batch[IDS]) if alone else [],
            )
        )
        if wave and stage == SAMPLING:
            await self._turns.sampled(version)
        return answer

    async def _again(self, stage: str, work: Work, batch: Batch, wave: int) -> Batch:
        """As it was in the run that is replayed: asked for the same groups, under the same weights."""
        assert self._run.script
        names, answers = list(batch[IDS]), list[Batch]()
        for call in self._run.script.calls(self._run.phase, wave, stage):
            if stage == SAMPLING:
                await self._turns.under(call.version)
            some = part(batch, [names.index(name) for name in call.ids if name in names]) if call.ids else batch
            answer = await self._once(stage, work, some, wave, alone=bool(call.ids))
            if not isinstance(answer, Batch):
                raise RunFailed(f"{stage} fails where it did not in the run that is replayed: {_told(answer)}")
            answers.append(answer)
        kept = {name for answer in answers for name in answer[IDS]}
        for name in names:
            if name not in kept:
                self._lose(stage, name, RunFailed(self._run.script.error(self._run.phase, wave, name)), wave)
        return joined(answers) if answers else part(batch, [])

    def _lose(self, stage: str, name: str, error: Exception, wave: int) -> None:
        """Say that a group is lost. Raises RunFailed when it is one too many."""
        self.last = f"{stage}: {_told(error)}"
        self.failed += 1
        self._row[stage] += 1
        self._run.bus.publish(GroupFailed(phase=self._run.phase, id=name, stage=stage, error=_told(error), wave=wave))
        allowed = self._failures
        if self._run.script:
            return
        if self._row[stage] > allowed.in_a_row:
            many = f"{self._row[stage]} groups in a row"
        elif self.failed > max(allowed.in_a_row, allowed.share * self.read):
            many = f"{self.failed} of {self.read} groups"
        else:
            return
        raise RunFailed(f"{many} failed, more than loop.failures allows; the last at {self.last}") from error


def fault(asked: Batch, answer: Batch) -> str:
    """What is wrong with the answer of a stage, "" if nothing is: groups or values that are missing, or no number."""
    if answer[IDS] != asked[IDS]:
        return f"an answer for {len(answer[IDS])} groups where {len(asked[IDS])} were asked for"
    if wrong := unsound(answer, asked):
        return wrong
    if missing := set(range(len(answer[IDS]))) - set(map(int, plain(answer[GROUP]))):
        return f"nothing was written for {answer[IDS][min(missing)]}"
    return ""


def unsound(batch: Batch, before: Mapping[Field[Any], Any] = MappingProxyType({})) -> str:
    """What is wrong with a batch in itself, "" if nothing is. before: values that were looked at already."""
    counts = {dim: len(batch[key]) for dim, key in COUNTED_BY.items() if key in batch}
    counts["seq"] = len(batch[COMPLETIONS])
    for key, value in batch.items():
        if key.dims in counts and len(value) != counts[key.dims]:
            return f"{key} has {len(value)} entries where there are {counts[key.dims]} along {key.dims}"
    for key, value in batch.items():
        if value is before.get(key) or not key.dims:
            continue
        if key.dtype and not (hasattr(value, "tolist") and key.dtype != "float32") and not _finite(plain(value)):
            return f"{key} is not all numbers"
        if key.into in counts and len(value) and not 0 <= min(plain(value)) <= max(plain(value)) < counts[key.into]:
            return f"{key} points to more than the {counts[key.into]} entries along {key.into}"
        if key in _HOLDS and not all(isinstance(entry, _HOLDS[key]) for entry in value):
            return f"{key} holds what does not belong there"
    return ""


_HOLDS: Mapping[Field[Any], Any] = {
    **dict.fromkeys((IDS, FINISH), str),
    **dict.fromkeys((PROMPTS, COMPLETIONS, ANSWERS), str | list),
    **dict.fromkeys((METADATA, SCORE_PARTS), dict),
}
"""what is looked for in an entry of a field that is no tensor"""


def _finite(values: list[Any]) -> bool:
    return all(
        _finite(cast("list[Any]", value))
        if isinstance(value, list)
        else isinstance(value, int | float) and math.isfinite(value)
        for value in values
    )


def _version(answer: Batch) -> int:
    found = set(map(int, plain(answer[VERSION]))) if VERSION in answer else set[int]()
    return found.pop() if len(found) == 1 else -1


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, TruingError) else f"{type(error).__name__}: {error}"

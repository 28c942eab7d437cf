"""The online loop of the kernel, played on a clock of its own with stages that only take time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import numpy as np

from truing.attempts import Failures
from truing.bus import Bus
from truing.events import Event, StageEnded
from truing.fields import fields
from truing.journal import PhaseFolder
from truing.loop import Parts
from truing.online import online
from truing.recipe import Loop
from truing.run import Run
from truing_simulate import clock
from truing_simulate.pace import Counts, Pace, Places
from truing_simulate.stages import NO_LOSS, Chooser, Endless, Learner, Sampler, Scorer, Stage, Still, Work

_UNIT = 0.2
"""seconds of the clock that a typical piece of work takes: the loop looks up every 0.05 s, which costs time here"""
_PATIENT = Failures(generate_seconds=0, score_seconds=0)


class Played(NamedTuple):
    """The events of a phase, at simulated times from 0 on. fill: while a wave is sampled, the share of the devices that
    are at work on it."""

    events: list[Event]
    fill: float


@dataclass(frozen=True)
class Player:
    """Plays a phase in many places. samples: completions of a prompt. Lengths are drawn once for all places."""

    loop: Loop
    samples: int
    pace: Pace
    seed: int = 0
    drawn: dict[tuple[int, ...], Counts] = field(default_factory=dict[tuple[int, ...], Counts])

    def __call__(self, places: Places, steps: int) -> Played:
        """So many steps, from the first on. The same seed gives the same events."""
        events: list[Event] = []
        works: list[Work] = []
        unit = self._typical(places) / _UNIT

        def keep(event: Event) -> None:
            now = anyio.current_time() * unit
            event = msgspec.structs.replace(event, time=now)
            if isinstance(event, StageEnded):
                # The last work of a stage is the one that has just ended.
                work = next((work for work in reversed(works) if work.stage == event.stage), None)
                began, seconds = (work.began, work.seconds) if work else (now, 0.0)
                event = msgspec.structs.replace(event, began=began, seconds=seconds)
            events.append(event)

        async def main() -> None:
            run = Run("simulated", Path(), self.seed, Bus(keep=keep))
            beside = clock.Beside(self.pace.slowed)
            stage = Stage(self.pace, places, self.samples, unit, run, works, self.drawn, beside)
            learner = Learner(stage)
            device = clock.Device(learner.takes)
            parts: Any = {
                "source": Endless(),
                "model": learner,
                "optimizer": Still(),
                "generator": Sampler(stage, device),
                "scorer": Scorer(stage),
                "advantage": Chooser(stage),
            }
            own = self.loop
            loop = Loop(batch=own.batch, staleness=own.staleness, refill=own.refill, steps=steps, failures=_PATIENT)
            run = replace(run, device=device)
            try:
                await online(Parts(**parts, loss=NO_LOSS, needs=fields()), loop, run, PhaseFolder(Path()))
            finally:
                run.bus.close()

        clock.run(main)
        sampled = [work for work in works if work.stage == "generate"]
        return Played(events, sum(work.seconds * work.busy for work in sampled) / sum(work.seconds for work in sampled))

    def _typical(self, places: Places) -> float:
        """About what the longest piece of work takes."""
        lengths = np.full((self.loop.batch, self.samples), round(self.pace.lengths.mean()))
        return max(self.pace.generate(lengths, places).seconds, self.pace.learn(lengths.ravel(), places))

"""The observer: a history for every phase, and an alarm when a rule sees a sign in it.

An alarm is raised when its sign reaches 1. It is silent then, until the sign has been below one half for as many steps
as are smoothed over: numbers that waver about the threshold raise it once. A resumed run reads what its journal has, so
what was raised before is not raised again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from truing.events import Alarm, DataOpened, Evaluated, Event, PhaseStarted, StepDone
from truing.journal import Journal
from truing.run import Run
from truing_monitor.history import History
from truing_monitor.policy_rules import LENGTH, POLICY_RULES
from truing_monitor.rules import MARGIN, RULES, Rule, Sign

RAISED, WELL = 1.0, 0.5


class Options(Protocol):
    """What every monitor is told."""

    @property
    def smooth(self) -> int: ...
    @property
    def stop_on(self) -> Collection[str]: ...


@dataclass
class Phase:
    """What is known of one phase. unwell: of every raised alarm, the last step at which its sign was not yet well."""

    history: History
    unwell: dict[str, int] = field(default_factory=dict[str, int])

    def begin(self, event: PhaseStarted) -> None:
        """A phase begins, or goes on after `event.start` steps."""
        self.history.length = event.steps
        # The look at an untouched model is taken again where nothing is gone on from.
        self.history.go_back(event.start or -1)
        self.unwell = {name: min(step, event.start) for name, step in self.unwell.items()}

    def judge(self, name: str, sign: Sign | None, step: int) -> bool:
        """Whether this sign raises the alarm now."""
        strength = sign.strength if sign else 0.0
        if name in self.unwell:
            if strength >= WELL:
                self.unwell[name] = step
            elif step - self.unwell[name] >= self.history.window:
                del self.unwell[name]
            return False
        if strength < RAISED:
            return False
        self.unwell[name] = step
        return True


class Monitor:
    """Watches phases that report what its rules are about. sign: a number that all of those report."""

    rules: ClassVar[Mapping[Any, Rule]]
    sign: ClassVar[str]

    def __init__(self, options: Options, run: Run) -> None:
        self._options = options
        self._run = run
        self._phases: dict[str, Phase] = {}

    async def open(self) -> None:
        """Read what happened before a resume."""
        if self._run.resumed:
            for _, event in Journal(self._run.folder).events():
                self._look(event)

    async def observe(self, event: Event) -> None:
        """Take an event down, and raise the alarms that it gives reason for."""
        for alarm in self._look(event):
            self._run.bus.publish(alarm)
            if alarm.name in self._options.stop_on:
                self._run.stop.ask(f"alarm {alarm.name} at step {alarm.step}: {alarm.text}")

    async def close(self) -> None:
        """Nothing is left open."""

    def _look(self, event: Event) -> list[Alarm]:
        match event:
            case PhaseStarted():
                self._phase(event.phase).begin(event)
            case DataOpened(role="holdout"):
                self._phase(event.phase).history.held = event.groups
            case StepDone():
                self._phase(event.phase).history.add_step(event.step, event.metrics)
                return self._alarms(event)
            case Evaluated():
                self._phase(event.phase).history.add_look(event.step, event.metrics)
                return self._alarms(event)
            case _:
                pass
        return []

    def _alarms(self, event: StepDone | Evaluated) -> list[Alarm]:
        phase = self._phase(event.phase)
        history = phase.history
        if not history.trained[self.sign].values and not history.looked[self.sign].values:
            return []
        found: list[Alarm] = []
        for name, rule in self.rules.items():
            sign = rule(history, self._options)
            if phase.judge(name, sign, event.step) and sign:
                values = dict(sign.values)
                found.append(Alarm(phase=event.phase, step=event.step, name=name, text=sign.text, values=values))
        return found

    def _phase(self, name: str) -> Phase:
        return self._phases.setdefault(name, Phase(History(self._options.smooth)))


class PreferenceObserver(Monitor):
    """Watches preference losses, which report a margin."""

    rules = RULES
    sign = MARGIN


class PolicyObserver(Monitor):
    """Watches policies that learn from what they sample."""

    rules = POLICY_RULES
    sign = LENGTH

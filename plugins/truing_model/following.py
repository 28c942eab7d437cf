"""What every process but the first does: build what the first one builds, and do what it says until it ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from truing.bus import Bus
from truing.check import wanted
from truing.errors import RunFailed, TruingError
from truing.fields import LOGPROBS_REF
from truing.recipe import Recipe
from truing.run import Run
from truing_model.learner import Learner
from truing_model.team import Answer, Order, assemble, order_of

lead = assemble
_KNOWN_SECONDS = 1.0
"""how long it may take until the line says that the first process has gone"""
_ORDERS = ("attach", "begin", "forward", "backward", "norm", "move", "look", "save", "load", "gather")


def follow(recipe: Recipe, rank: int, count: int, gpus: bool) -> int:
    """Learn together with the first process of a run; the exit status. It alone hears the signals that stop a run, and
    ends this one, however it ends itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    team = assemble(rank, count, gpus)
    (line,) = team.lines
    follower = Follower(recipe)
    while (content := line.hear()) is not None:
        order = order_of(content)
        if order.name == "end":
            team.end(well=follower.well)
            return 0
        team.busy = True
        answer = follower.answered(order)
        team.busy = False
        if answer:
            line.say(answer)
        if answer and answer.error and order.name != "join":
            # The others may be in a collective that waits for this process, and notice only that it is gone.
            print(f"truing: {team.explained(RunFailed(answer.error), _KNOWN_SECONDS)}", file=sys.stderr, flush=True)
            os._exit(1)
    print(f"truing: {team.lost}", file=sys.stderr)
    return 1


class Follower:
    """A process that does what it is told. well: all that it was told was done."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._learner: Learner | None = None
        self.well = True

    def answered(self, order: Order) -> Answer | None:
        """What came of an order; None if nobody waits for that."""
        if order.name == "leave":
            self._learner = None
            return None
        try:
            if order.name == "join":
                return self._join(*order.arguments)
            assert order.name in _ORDERS, order.name
            value = getattr(self._learner, order.name)(*order.arguments)
            return Answer(value if order.name in ("forward", "look") else None)
        except Exception as error:  # the first process is told, and ends the run
            self.well = False
            return Answer(error=str(error) if isinstance(error, TruingError) else f"{type(error).__name__}: {error}")

    def _join(self, phase: str, folder: str) -> Answer:
        """Build the model of a phase. What the reference said is looked up in the first process alone."""
        (made,) = (each for each in self._recipe.phases if each.name == phase)
        assert made.model
        assert made.optimizer
        run = Run(self._recipe.name, Path(folder), self._recipe.seed, Bus()).at(phase, wanted(made) - {LOGPROBS_REF})
        model: Any = made.model.build(run)
        self._learner = model.learner
        self._learner.optimizer_of = made.optimizer.build(run)
        return Answer()

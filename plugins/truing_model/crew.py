"""The learners of a model, one in each process, as the first of them sees them.

    each   an order to every learner with arguments of its own, at the same time; what came of it, of all
    same   an order to every learner with the same arguments; what came of it, of the first

The loss, what it remembers, controllers and reports are in the first process alone: outputs of every piece come to it,
and the gradient at them goes back (docs/decisions/0016-orders-not-ranks.md).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

from truing.errors import RunFailed
from truing.run import Run
from truing.stage import Optimizer
from truing_model.learner import Learner, in_place
from truing_model.menu_parallel import Parallel
from truing_model.team import Order, Team, answer_of, team

T = TypeVar("T")


class Crew(Protocol):
    """All learners of a model. count: how many; learner: that of this process."""

    count: int
    learner: Learner

    def each(self, order: str, arguments: Sequence[Sequence[Any]]) -> list[Any]: ...

    def same(self, order: str, *arguments: Any) -> Any: ...

    def whole(self, who: str) -> AbstractContextManager[None]:
        """Every weight of a network is whole here meanwhile."""
        ...


class Alone:
    """One learner, in one process."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.count = 1

    def each(self, order: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """An order to the one there is."""
        return [self.same(order, *arguments[0])]

    def same(self, order: str, *arguments: Any) -> Any:
        """An order to the one there is."""
        return getattr(self.learner, order)(*arguments)

    def whole(self, who: str) -> AbstractContextManager[None]:
        """They are."""
        return nullcontext()


class Leader:
    """The learner of the first process, and lines to those of the others. Raises RunFailed once one has gone."""

    def __init__(self, learner: Learner, made: Team, run: Run) -> None:
        self.learner = learner
        self.count = made.count
        self._team = made
        self._run = run
        self._one_at_a_time = threading.RLock()
        self._is_whole = False
        self._broken = False
        made.hears = run.stop.ask
        run.ends.append(self._leave)
        self._order("join", [[run.phase, str(run.folder.resolve())]] * made.count, lambda *_: None)

    def each(self, order: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """An order to all; this process does its part meanwhile."""
        return self._order(order, arguments, getattr(self.learner, order))

    def same(self, order: str, *arguments: Any) -> Any:
        """The same order to all."""
        return self.each(order, [arguments] * self.count)[0]

    @contextmanager
    def whole(self, who: str) -> Iterator[None]:
        """Every weight of a network is whole here meanwhile: put together from all processes."""
        if self._is_whole:
            yield
            return
        found = self.each("gather", [[who, True], *[[who, False]] * (self.count - 1)])[0]
        self._is_whole = True
        try:
            with in_place(found):
                yield
        finally:
            self._is_whole = False

    def _order(self, order: str, arguments: Sequence[Sequence[Any]], own: Any) -> list[Any]:
        with self._one_at_a_time:
            if self._team.lost:
                raise RunFailed(self._said())
            if self._broken:
                raise RunFailed("the processes that learn together are out of step since something broke")
            self._team.busy = self._broken = True
            try:
                for line, given in zip(self._team.lines, arguments[1:], strict=True):
                    line.say(Order(order, list(given)))
                done = [own(*arguments[0]), *map(self._heard, self._team.lines)]
                self._broken = False
                return done
            except RuntimeError as error:  # a collective breaks with whatever its backend finds to say
                raise self._explained(error) from error
            finally:
                self._team.busy = False

    def _heard(self, line: Any) -> Any:
        content = line.hear()
        if content is None:
            raise RunFailed(self._said())
        answer = answer_of(content)
        if answer.error:
            raise self._explained(RunFailed(f"{line.who}: {answer.error}"))
        return answer.value

    def _explained(self, error: Exception) -> Exception:
        found = self._team.explained(error)
        return RunFailed(self._said()) if self._team.lost else found

    def _said(self) -> str:
        return f"{self._team.lost}; start as many again with: truing resume {self._run.folder}"

    def _leave(self) -> None:
        """The phase is over."""
        if self._team.lost:
            raise RunFailed(self._said())
        for line in self._team.lines:
            line.say(Order("leave", []))


def attached(crew: Crew, parallel: Parallel | None, run: Run, optimizer: Optimizer, steps: int) -> Crew:
    """The crew of a model that is about to learn. Raises RunFailed if other processes are there than it is made for."""
    made, wanted = team(), parallel.processes if parallel else 1
    there = made.count if made else int(os.environ.get("WORLD_SIZE", "1"))
    if wanted not in (1, there) or (there > 1 and made is None):
        raise RunFailed(f"this model learns in {wanted} processes, and {there} were started together")
    crew.learner.optimizer_of = optimizer
    if wanted > 1 and made and parallel:
        crew = Leader(crew.learner, made, run)
        crew.each("attach", [[steps, parallel.kind, rank, wanted] for rank in range(wanted)])
    else:
        crew.same("attach", steps, "alone", 0, 1)
    return crew


def in_turns(count: int, items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Items for so many at a time; the last ones may be fewer."""
    return (items[at : at + count] for at in range(0, len(items), count))


def filled(count: int, items: Sequence[T]) -> list[T]:
    """An item for everybody: who has none goes through another's, so that all keep step."""
    return [*items, *[items[-1]] * (count - len(items))]

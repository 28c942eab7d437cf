"""How devices are best divided between sampling and learning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from truing_simulate.course import Course, course_of
from truing_simulate.pace import Places
from truing_simulate.playing import Player

_SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 15 / 16)
_NEARER = 2
"""how often the neighbours of the best are looked at once more"""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A division and what it comes to. copies: models that sample side by side. in_turns: all devices do both. fill:
    share of the devices that sample which are at work while a wave is sampled."""

    generate: int
    learn: int
    copies: int
    in_turns: bool
    fill: float
    course: Course


def simulated(player: Player, places: Places, steps: int) -> Split:
    """One division."""
    played = player(places, steps)
    course = course_of(played.events, player.loop.staleness, places.shared)
    return Split(
        generate=places.generate,
        learn=places.learn,
        copies=places.copies,
        in_turns=places.shared,
        fill=played.fill,
        course=course,
    )


def searched(player: Player, places: Places, devices: int, steps: int) -> Sequence[Split]:
    """Divisions of so many devices, those around the best looked at more closely; all in turns is the last."""
    found: dict[int, Split] = {}

    def look(some: Iterable[int]) -> int:
        for generate in some:
            generate = max(places.copy, generate // places.copy * places.copy)
            if generate not in found and generate < devices:
                here = places._replace(generate=generate, learn=devices - generate, shared=False)
                found[generate] = simulated(player, here, steps)
        return best(list(found.values())).generate

    nearest = look(round(devices * share) for share in _SHARES)
    for _ in range(_NEARER):
        tried = sorted(found)
        at = tried.index(nearest)
        nearest = look((nearest + other) // 2 for other in (*tried[max(at - 1, 0) : at], *tried[at + 1 : at + 2]))
    in_turns = places._replace(generate=devices, learn=devices, shared=True)
    return [*(found[generate] for generate in sorted(found)), simulated(player, in_turns, steps)]


def best(splits: Sequence[Split]) -> Split:
    """The one with the shortest steps."""
    return min(splits, key=lambda split: split.course.step_seconds)

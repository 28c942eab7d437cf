"""One form of data made of another: labels of pairs, pairs of rankings, and completions put to prompts not their own.

Plain functions on groups, so that every source offers the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import msgspec

from truing.errors import Problem, UserError
from truing.fields import LABEL, MISMATCHED, RANK, Group


class Finish(Protocol):
    """The option that asks for something of all groups together."""

    @property
    def mismatched(self) -> bool: ...


def labelled(group: Group) -> Group:
    """The completions of a group's pairs, the better ones desirable, without the pairs."""
    better = {first for first, _ in group.pairs}
    labels = [int(at in better) for at in range(len(group.completions))]
    return msgspec.structs.replace(group, pairs=[], extra={LABEL: labels})


def all_pairs(group: Group) -> Group:
    """Every two completions of a ranking that are not tied, as a pair, without the ranking."""
    ranks = group.extra[RANK]
    places = combinations(range(len(ranks)), 2)
    pairs = [(one, other) if ranks[one] < ranks[other] else (other, one) for one, other in places]
    unequal = [(better, worse) for better, worse in pairs if ranks[better] != ranks[worse]]
    return msgspec.structs.replace(group, pairs=unequal, extra={})


def resampled(groups: Sequence[Group], seed: int) -> list[Group]:
    """A bootstrap sample: as many groups, drawn with replacement, in the order they have.

    A third of the groups are in none of it (1/e). One that is drawn again has a name of its own: `id`, `id~2`, `id~3`.
    """
    drawn = sorted(random.Random(f"bootstrap/{seed}").choices(range(len(groups)), k=len(groups)))
    times: dict[int, int] = {}
    found: list[Group] = []
    for at in drawn:
        times[at] = times.get(at, 0) + 1
        name = groups[at].id if times[at] == 1 else f"{groups[at].id}~{times[at]}"
        found.append(msgspec.structs.replace(groups[at], id=name))
    return found


def finished(groups: list[Group], options: Finish, origin: str) -> list[Group]:
    """What holds for all groups together: labels of both kinds, and completions of other prompts if asked for.

    Raises UserError.
    """
    labels = {label for group in groups for label in group.extra.get(LABEL, [])}
    if len(labels) == 1:
        kind = "desirable" if labels == {1} else "undesirable"
        mend = "labels teach by their difference: is this the right column, and are rows of the other kind left out?"
        raise UserError(Problem(origin, f"every completion is labelled {kind}", mend))
    return with_mismatched(groups, origin) if options.mismatched else groups


def with_mismatched(groups: Sequence[Group], origin: str) -> list[Group]:
    """Labelled groups, each with one more completion that was written for another prompt.

    Which one depends on the groups and nothing else, not on the batch or the epoch, so the reference has to be asked
    about it only once. Raises UserError when there is no other prompt.
    """
    chance = random.Random("mismatched")
    order = list(range(len(groups)))
    chance.shuffle(order)
    after = {order[at - 1]: order[at] for at in range(len(order))}
    found: list[Group] = []
    for at, group in enumerate(groups):
        other = after[at]
        while not _strangers(group, groups[other]):
            other = after[other]
            if other == at:
                what = "mismatched needs completions of other prompts, and all prompts are the same"
                raise UserError(Problem(origin, what, "take more rows"))
        own, stranger = len(group.completions), chance.choice(groups[other].completions)
        extra = {**group.extra, LABEL: [*group.extra[LABEL], 0], MISMATCHED: [0] * own + [1]}
        found.append(msgspec.structs.replace(group, completions=[*group.completions, stranger], extra=extra))
    return found


def _strangers(one: Group, other: Group) -> bool:
    """Do two groups have different prompts, both plain text or both messages?"""
    return one.prompt != other.prompt and isinstance(one.prompt, str) == isinstance(other.prompt, str)

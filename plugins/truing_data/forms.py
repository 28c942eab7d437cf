"""One form of data made of another: labels of pairs, pairs of rankings, and completions put to prompts not their own.

Plain functions on groups, so that every source offers the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Protocol

import msgspec

from truing.errors import Problem, UserError
from truing.fields import LABEL, MISMATCHED, RANK, Group, Text


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


def gathered(groups: Sequence[Group], size: int) -> list[Group]:
    """Pairs of the same prompt put together, each pair once, at most `size` different completions in a group.

    Of more completions, halves of a group are taken in turn with each other, so a completion is in about
    2 * completions / size groups and not in as many as it has pairs.
    """
    same: dict[bytes, list[Group]] = {}
    for group in groups:
        same.setdefault(_key(group.prompt), []).append(group)
    return [each for some in same.values() for each in _in_halves(some, size)]


def _in_halves(pairs: Sequence[Group], size: int) -> Iterator[Group]:
    places: dict[bytes, int] = {}
    for pair in pairs:
        for completion in pair.completions:
            places.setdefault(_key(completion), len(places))
    order = list(range(len(places)))
    # Neighbours in a file are alike, often; those that meet in a group should not be.
    random.Random("together").shuffle(order)
    half = size if len(order) <= size else size // 2
    count = -(-len(order) // half)
    met: dict[tuple[int, int], list[Group]] = {}
    for pair in pairs:
        one, other = sorted(order[places[_key(completion)]] // half for completion in pair.completions)
        if one == other and count > 1:
            one, other = sorted((one, (one + 1) % count))
        met.setdefault((one, other), []).append(pair)
    return (_joined(some) for some in met.values())


def _joined(pairs: Sequence[Group]) -> Group:
    """One group of pairs with the same prompt, each different completion in it once."""
    places: dict[bytes, int] = {}
    completions: list[Text] = []
    joined: list[tuple[int, int]] = []
    for pair in pairs:
        for completion in pair.completions:
            if places.setdefault(_key(completion), len(completions)) == len(completions):
                completions.append(completion)
        at = [places[_key(completion)] for completion in pair.completions]
        joined.extend((at[better], at[worse]) for better, worse in pair.pairs)
    first = pairs[0]
    name = first.id if len(pairs) == 1 else f"{first.id}+{len(pairs) - 1}"
    extra = {kind: [value for pair in pairs for value in pair.extra[kind]] for kind in first.extra}
    return Group(id=name, prompt=first.prompt, completions=completions, pairs=joined, extra=extra)


def _key(text: Text) -> bytes:
    return msgspec.json.encode(text)


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

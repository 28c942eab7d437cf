"""What a piece of work takes, on so many devices.

    generate    round_seconds * rounds + token_seconds * tokens, of the copy that is last
    score       score_seconds * completions / scorers
    learn       step_seconds + learn_seconds * tokens of the device that has the most + bytes over the network
    publish     publish_seconds + bytes over the network

A **round** draws one token for every completion that has a seat, so a long completion holds its copy for as many rounds
as it has tokens, with however few beside it: that is the tail. The weights are read once a round, which is why a round
has a price of its own. Completions of one prompt stay together on a copy; a device that learns is dealt completions,
the longest first, each to the one that has the least so far.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from truing_simulate.lengths import Lengths

Counts = NDArray[np.int64]


class Places(NamedTuple):
    """Devices that generate, and that learn; the same ones, in turns, where `shared`. copy: how many hold one copy of
    the model that samples. seats: completions that a copy samples at a time. network: bytes a second between devices,
    0: no matter. latency: seconds of one step of a message around all that learn."""

    generate: int
    learn: int
    shared: bool
    copy: int = 1
    seats: int = 256
    scorers: int = 1
    network: float = 0.0
    latency: float = 0.0

    @property
    def copies(self) -> int:
        """Models that sample side by side."""
        return max(1, self.generate // self.copy)


class Wave(NamedTuple):
    """What sampling a wave takes. seconds: until its last completion is there. busy: of that, the share that a copy is
    at work in the mean."""

    seconds: float
    busy: float


@dataclass(frozen=True)
class Pace:
    """Seconds on one device. weights: bytes of the model. dropped: share of groups that an estimator leaves out. noise:
    by stage, what was measured over its mean. slowed: by stage, how many times as long it takes while the other of
    sampling and learning goes on beside it."""

    lengths: Lengths
    round_seconds: float
    token_seconds: float
    score_seconds: float
    step_seconds: float
    learn_seconds: float
    publish_seconds: float
    weights: float = 0.0
    dropped: float = 0.0
    noise: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    slowed: Mapping[str, float] = field(default_factory=dict[str, float])

    def generate(self, lengths: Counts, places: Places) -> Wave:
        """lengths: [group, sample]."""
        copies = min(places.copies, len(lengths))
        taken = [
            self.round_seconds * rounds(lengths[at::copies].ravel(), places.seats)
            + self.token_seconds * float(lengths[at::copies].sum())
            for at in range(copies)
        ]
        return Wave(max(taken), sum(taken) / (max(taken) * places.copies))

    def learn(self, lengths: Counts, places: Places) -> float:
        """lengths: [seq]."""
        count = places.learn
        around = 2 * (count - 1) * places.latency
        if places.network:
            around += 2 * (count - 1) / count * self.weights / places.network
        return self.step_seconds + self.learn_seconds * most_dealt(lengths, count) + around

    def score(self, completions: int, places: Places) -> float:
        return self.score_seconds * math.ceil(completions / places.scorers)

    def publish(self, places: Places) -> float:
        over = self.weights / places.network if places.network and not places.shared else 0.0
        return self.publish_seconds + over


def rounds(lengths: Counts, seats: int) -> int:
    """How many rounds completions take that get seats in their order, each as soon as one is free."""
    if len(lengths) <= seats:
        return int(lengths.max())
    free = lengths[:seats].tolist()
    heapq.heapify(free)
    for length in lengths[seats:].tolist():
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def most_dealt(lengths: Counts, devices: int) -> float:
    """Tokens of the device that has the most."""
    if devices == 1:
        return float(lengths.sum())
    if devices >= len(lengths):
        return float(lengths.max())
    loads = [0] * devices
    for length in sorted(lengths.tolist(), reverse=True):
        heapq.heapreplace(loads, loads[0] + length)
    return float(max(loads))

"""Votes as three columns of numbers, one entry per vote: nothing is padded, whoever voted on whatever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Votes:
    """Who said what of which item.

    item, annotator, label [vote]: positions among the items, in `annotators` and in `labels`. items: how many there
    are, those without a vote included.
    """

    item: Ints
    annotator: Ints
    label: Ints
    items: int
    annotators: Sequence[str]
    labels: Sequence[str]

    def counts(self) -> Ints:
        """How often each label was given to each item: [item, label]."""
        table = np.zeros((self.items, len(self.labels)), np.int64)
        np.add.at(table, (self.item, self.label), 1)
        return table

    def only(self, labels: Sequence[str]) -> Votes:
        """The votes that gave one of these labels, which become all there are. The items stay."""
        places = np.full(len(self.labels), -1)
        places[[self.labels.index(label) for label in labels]] = np.arange(len(labels))
        kept = places[self.label] >= 0
        label = places[self.label[kept]]
        return Votes(self.item[kept], self.annotator[kept], label, self.items, self.annotators, labels)


def votes_of(given: Sequence[Sequence[tuple[str, str]]], labels: Sequence[str]) -> Votes:
    """The (annotator, label) pairs of every item as a table. Annotators stand in the order in which they appear."""
    numbers: dict[str, int] = {}
    places = {label: at for at, label in enumerate(labels)}
    rows = [
        (item, numbers.setdefault(annotator, len(numbers)), places[label])
        for item, votes in enumerate(given)
        for annotator, label in votes
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Votes(columns[:, 0], columns[:, 1], columns[:, 2], len(given), list(numbers), list(labels))

"""How far annotators agree, beyond what chance alone would bring about.

A coefficient is 1 where all agree and 0 where they agree as often as labels drawn from their own frequencies would. It
is None where it does not exist: nothing was labelled twice, or only one label was ever given.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, NamedTuple

import numpy as np

from truing_data.agreement.table import Ints, Votes


class Judged(NamedTuple):
    """Votes held against the majority of the other votes on their item. right [vote], of those that could be judged.

    vote: which ones they are. tied: votes whose others have no majority. alone: votes without others.
    """

    right: Ints
    vote: Ints
    tied: int
    alone: int


def observed(one: Ints, other: Ints) -> float:
    """The share of items [item] that two annotators label alike."""
    return float((one == other).mean())


def cohen(one: Ints, other: Ints, labels: int) -> float | None:
    """Cohen's kappa of two annotators' labels [item], each below `labels`.

    (p_o - p_e) / (1 - p_e), where p_e is what their own frequencies would give (J. Cohen, "A coefficient of agreement
    for nominal scales", 1960).
    """
    table = np.zeros((labels, labels))
    np.add.at(table, (one, other), 1)
    share = table / max(1, len(one))
    expected = float(share.sum(0) @ share.sum(1))
    return (float(np.trace(share)) - expected) / (1 - expected) if expected < 1 and len(one) else None


def fleiss(counts: Ints) -> float | None:
    """Fleiss' kappa of counts [item, label], the same number of votes on every item.

    (P - P_e) / (1 - P_e), where P is the share of agreeing pairs of votes on an item (J. L. Fleiss, "Measuring nominal
    scale agreement among many raters", 1971). Raises ValueError where items have different numbers of votes.
    """
    if not len(counts):
        return None
    votes = int(counts[0].sum())
    if (counts.sum(1) != votes).any():
        raise ValueError("Fleiss' kappa is defined for items with the same number of votes")
    if votes < 2:
        return None
    agreeing = float(((counts**2).sum(1) - votes).mean()) / (votes * (votes - 1))
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (agreeing - expected) / (1 - expected) if expected < 1 else None


def krippendorff(counts: Ints, scale: Literal["nominal", "ordinal"]) -> float | None:
    """Krippendorff's alpha of counts [item, label]; items with fewer than two votes say nothing.

    scale: "ordinal" when the labels stand in an order, so that neighbours are half an agreement (K. Krippendorff,
    "Content analysis", chapter 11).
    """
    from krippendorff import alpha

    paired = counts[counts.sum(1) >= 2]
    if (paired.sum(0) > 0).sum() < 2:
        return None
    return float(alpha(value_counts=paired, level_of_measurement=scale))


def unanimous(counts: Ints) -> tuple[int, int]:
    """Items on which all votes are alike, and items with two votes or more, of counts [item, label]."""
    paired = counts[counts.sum(1) >= 2]
    return int((paired.max(1, initial=0) == paired.sum(1)).sum()), len(paired)


def against_the_rest(votes: Votes) -> Judged:
    """Each vote against the majority of the others on its item, itself left out.

    The share that is right is how often a person agrees with people: no model can be shown to do better on such labels.
    A vote whose others have no single most frequent label is not judged.
    """
    rest = votes.counts()[votes.item]
    rest[np.arange(len(votes.item)), votes.label] -= 1
    most = rest.max(1, initial=0)
    alone = most == 0
    tied = ~alone & ((rest == most[:, None]).sum(1) > 1)
    judged = np.flatnonzero(~alone & ~tied)
    right = (rest[judged].argmax(1) == votes.label[judged]).astype(np.int64)
    return Judged(right, judged, int(tied.sum()), int(alone.sum()))


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (E. B. Wilson, "Probable inference", 1927). Raises ValueError when `of` is 0."""
    if not of:
        raise ValueError("a share of nothing has no interval")
    z, share = 1.959964, count / of
    middle = share + z * z / (2 * of)
    half = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, (middle - half) / (1 + z * z / of)), min(1.0, (middle + half) / (1 + z * z / of))

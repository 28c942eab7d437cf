"""What a report holds, as values that a program can read as well."""

from __future__ import annotations

import msgspec

from truing_data.agreement.texts import Copies, Lengths, Overlap, Share


class Category(msgspec.Struct):
    """The rows of one value of a column."""

    column: str
    value: str
    rows: int
    ties: int
    longer_wins: Share | None


class Kappa(msgspec.Struct):
    """Two annotators on the items that both labelled. observed: share labelled alike; cohen: beyond chance."""

    one: str
    other: str
    items: int
    observed: float
    cohen: float | None


class Fleiss(msgspec.Struct):
    """Fleiss' kappa over the items with the most frequent number of votes. left_out: items with another number."""

    value: float | None
    items: int
    votes: int
    left_out: int


class Rest(msgspec.Struct):
    """Votes against the majority of the others on their item. tied, alone: votes that could not be judged so."""

    right: Share
    tied: int
    alone: int


class Annotator(msgspec.Struct):
    """One annotator. accuracy, confusion: by the model; rest: against the others' majority, None if never judged."""

    name: str
    votes: int
    accuracy: float
    rest: Share | None
    confusion: dict[str, dict[str, float]]


class Model(msgspec.Struct):
    """Dawid and Skene's model. uncertain: items of which it believes no label with 0.9."""

    frequency: dict[str, float]
    accuracy: float
    uncertain: Share
    majority: Share
    rounds: int
    converged: bool
    right: float
    wrong: float
    annotators: list[Annotator]


class Agreement(msgspec.Struct):
    """What votes say of each other."""

    items: int
    votes: int
    annotators: int
    per_item: dict[int, int]
    labels: dict[str, int]
    unanimous: Share
    kappas: list[Kappa]
    fleiss: Fleiss
    nominal: float | None
    ordinal: float | None
    rest: Rest
    decided_rest: Rest | None
    model: Model | None


class Bias(msgspec.Struct):
    """A log-odds with its 95 % interval."""

    value: float
    low: float
    high: float


class Position(msgspec.Struct):
    """What being shown first does. assumed: that the first column was shown first, because no column says so.

    first: decided votes for the answer shown first. overall, equal_length: log-odds of that. swapped: pairs that were
    shown in both orders, consistent: those whose same answer won both times, paired: the log-odds they give.
    """

    assumed: bool
    first: Share
    overall: Bias | None
    equal_length: Bias | None
    swapped: int
    consistent: Share | None
    paired: Bias | None


class Strength(msgspec.Struct):
    """By how much answers are better. mean: of its size. values: rows by value, empty if there are many values."""

    mean: float
    values: dict[str, int]


class Report(msgspec.Struct):
    """A file of comparisons. ties: None where nothing says which answer is better."""

    file: str
    rows: int
    unusable: int
    comparisons: int
    guesses: list[str]
    ties: int | None
    strength: Strength | None
    lengths: Lengths | None
    copies: Copies
    categories: list[Category]
    agreement: Agreement | None
    position: Position | None
    overlap: Overlap | None
    warnings: list[str]

"""What reports are made of; `--json` prints them as they are."""

from __future__ import annotations

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a report."""


class Figure(Shape, frozen=True, kw_only=True):
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float


class Bin(Shape, frozen=True, kw_only=True):
    """Pairs whose confidence lies from `low` to `high`: how sure the scores were, and how often they were right."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


class Calibration(Shape, frozen=True, kw_only=True):
    """sigmoid(margin) as a probability.

    nll: in nats a pair; a coin has 0.693. ece: with bins of equal width, ece_mass: of equal numbers of pairs.
    temperature: the margins divided by it would be most likely, None if no positive one is better than a coin, 0 if
    the smaller the better; it is fitted to these pairs, so nll_at and ece_at are a little too good. votes: whether
    the targets are shares of votes.
    """

    nll: Figure
    ece: float
    ece_mass: float
    temperature: float | None
    nll_at: float
    ece_at: float
    votes: bool
    table: list[Bin]


class Margins(Shape, frozen=True, kw_only=True):
    """Score of the better completion minus that of the worse. small: share of less than 0.1 in size."""

    mean: float
    deviation: float
    small: float
    better: float
    worse: float
    edges: list[float]
    counts: list[int]


class Lengths(Shape, frozen=True, kw_only=True):
    """What length has to do with it; lengths are in characters.

    longer_wins: the accuracy of preferring the longer one. when_longer, when_shorter: accuracy where the better one
    is the longer, the shorter. balanced: the mean of the two. controlled: accuracy at equal length by a logistic
    regression. correlation: of margin with difference in length.
    """

    longer_wins: Figure
    longer: int
    shorter: int
    when_longer: Figure | None
    when_shorter: Figure | None
    balanced: float | None
    controlled: Figure
    slope: float
    correlation: float | None


class Votes(Shape, frozen=True, kw_only=True):
    """Against single votes rather than the side with most of them. ceiling: what always naming that side would get."""

    accuracy: Figure
    ceiling: Figure
    of_ceiling: float


class Rankings(Shape, frozen=True, kw_only=True):
    """Prompts with more than two completions. top: how often the best-scored is a best one, tied scores share; random:
    how often a blind choice is. tau: Kendall's tau-b of scores with ranks, the mean over prompts."""

    prompts: int
    top: Figure
    random: float
    tau: Figure | None


class Category(Shape, frozen=True, kw_only=True):
    """Accuracy and calibration in a part of the pairs. nll, ece: as of all pairs, undecided ones left out."""

    name: str
    pairs: int
    prompts: int
    accuracy: Figure
    half_credit: float
    longer_wins: float
    nll: float
    ece: float


class Section(Shape, frozen=True, kw_only=True):
    """Several categories as one. weights: of each in the mean."""

    name: str
    accuracy: float
    weights: dict[str, float]


class Sections(Shape, frozen=True, kw_only=True):
    """The mean over sections, each the weighted mean of its categories. lacking: categories that are not in the
    file."""

    weighting: str
    sections: list[Section]
    mean: float
    lacking: list[str]


class Pairwise(Shape, frozen=True, kw_only=True):
    """A reward model on pairs. ties: pairs scored alike. undecided: pairs whose votes are half and half, left out of
    accuracies. worst: for each key the least half-credit accuracy of its categories; the interval is that of the least,
    whichever has it in a draw."""

    pairs: int
    prompts: int
    ties: int
    undecided: int
    accuracy: Figure
    half_credit: Figure
    calibration: Calibration
    margins: Margins
    lengths: Lengths
    votes: Votes | None
    rankings: Rankings | None
    by: dict[str, list[Category]]
    worst: dict[str, Figure]
    sections: Sections | None


class Members(Shape, frozen=True, kw_only=True):
    """The members of an ensemble on pairs. accuracy: of each, ties half right. correlation: of the margins of two of
    them, the mean over all two. disagreement: the share of pairs on which not all say the same. auroc: of the standard
    deviation of their margins, for the pairs that the ensemble gets wrong; None where it gets all wrong, or none."""

    members: int
    accuracy: list[Figure]
    correlation: float | None
    disagreement: float
    auroc: float | None


class Best(Shape, frozen=True, kw_only=True):
    """The best-scored of n. oracle: the best of n in truth. kl: the upper bound, in nats."""

    n: int
    prompts: int
    truth: Figure
    oracle: float
    kl: float


class Labelled(Shape, frozen=True, kw_only=True):
    """Scores of completions that are right or wrong. auroc: over all completions; within: of the right and wrong ones
    of one prompt, the mean over the `mixed` prompts that have both."""

    completions: int
    right: int
    prompts: int
    mixed: int
    auroc: Figure
    precision: float
    within: Figure | None
    best: list[Best]


class FirstErrors(Shape, frozen=True, kw_only=True):
    """How well scores of steps find the first wrong one: the harmonic mean of two accuracies (arXiv:2412.06559).

    erroneous: of solutions with a wrong step, the share in which exactly the first one is the first below the
    threshold; correct: of solutions without one, the share in which no step is.
    """

    threshold: float
    f1: Figure
    erroneous: Figure
    correct: Figure


class Aggregated(Shape, frozen=True, kw_only=True):
    """Scores of solutions, from those of their steps. auroc: of solutions without a wrong step against those with one.
    length: Spearman's correlation with the number of steps; None where one of them never changes."""

    how: str
    auroc: float | None
    length: float | None


class Steps(Shape, frozen=True, kw_only=True):
    """Scores of steps. unknown: solutions left out, for lack of labels up to the first wrong step. at: with the
    threshold given; best: with the one that is best on these very solutions, which is too good; held: for each
    tenth of the prompts a threshold chosen on the others, None if there are too few for it. floor: of flagging
    each step by chance, at the best rate. aggregates: scores of solutions, by how they are made of those of steps."""

    solutions: int
    unknown: int
    erroneous: int
    steps: int
    auroc: float | None
    at: FirstErrors
    best: FirstErrors
    held: Figure | None
    floor: float
    rate: float
    aggregates: list[Aggregated]


class Report(Shape, frozen=True, kw_only=True):
    """What the scores of a file are worth."""

    file: str
    prompts: int
    scores: str
    intervals: str
    pairs: Pairwise | None = None
    members: Members | None = None
    labels: Labelled | None = None
    steps: Steps | None = None


class Difference(Shape, frozen=True, kw_only=True):
    """Half-credit accuracy of a file minus that of the first, on the pairs of prompts that both have. turned: how many
    of these the two do not order alike, as may happen to the scores of one model in two number formats."""

    file: str
    prompts: int
    pairs: int
    turned: int
    difference: Figure


class Recovered(Shape, frozen=True, kw_only=True):
    """How much of the gap between a weak supervisor and a ceiling a file recovers (arXiv:2312.09390, section 3).

    weak, own, ceiling: half-credit accuracies on the pairs that all three have; ahead: own less weak; recovered: that
    over the ceiling less weak, its interval without the draws in which the ceiling is not above the weak one; without:
    how many of the draws those are."""

    file: str
    prompts: int
    pairs: int
    weak: float
    own: float
    ceiling: float
    ahead: Figure
    recovered: Figure
    without: float


class Chosen(Shape, frozen=True, kw_only=True):
    """What is chosen among n. truth: None where there is none. score: the mean score of what is chosen."""

    how: str
    truth: Figure | None
    score: float | None


class Choice(Shape, frozen=True, kw_only=True):
    """Choosing among n completions. oracle: the best in truth; kl: how far the best of n is from one draw at most."""

    n: int
    prompts: int
    kl: float
    chosen: list[Chosen]
    oracle: float | None


class Selection(Shape, frozen=True, kw_only=True):
    """What ways to choose among completions are worth. unanswered: completions in which no answer was found."""

    file: str
    prompts: int
    completions: int
    truth: str
    answer: str
    unanswered: int
    intervals: str
    subsets: str
    choices: list[Choice]


class Measured(Shape, frozen=True, kw_only=True):
    """A figure of what alignment does to a model. items: questions or prompts it was measured on."""

    name: str
    items: int
    value: Figure


class Changed(Shape, frozen=True, kw_only=True):
    """How a figure changed, on the items that both have: a difference, or a ratio. verdict: what its interval says."""

    name: str
    items: int
    change: Figure
    by_ratio: bool
    verdict: str


class Behaviour(Shape, frozen=True, kw_only=True):
    """What a model does when it is asked `probes`. before: the file that changes are counted from."""

    file: str
    prompts: int
    intervals: str
    figures: list[Measured]
    before: str = ""
    changes: list[Changed] = []


class Audited(Shape, frozen=True, kw_only=True):
    """What a judge said by one principle, or by all.

    labels: comparisons; missing: share of their verdicts that were none. Of those with both verdicts: sure, the mean
    probability of the better one; disagree, how often the two orders hold different answers to be better; first, how
    often the one shown first is chosen; bias, by how much being shown first raises the log-odds, in nats. tokens: read
    and written in all. Of the `apart` that the truth tells apart: how often one order agrees with it, and both
    averaged.
    """

    principle: str
    labels: int
    missing: float
    sure: float
    disagree: Figure
    first: float
    bias: float
    tokens: int
    apart: int = 0
    one_order: Figure | None = None
    agree: Figure | None = None


class Audit(Shape, frozen=True, kw_only=True):
    """All labels of a file, the last entry of `by` those of all principles."""

    file: str
    prompts: int
    intervals: str
    truth: str
    by: list[Audited]

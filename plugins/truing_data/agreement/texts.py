"""What the texts of comparisons give away: lengths, copies, contradictions, and what two files have in common.

Texts are compared without case, punctuation and spacing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, median
from typing import Any

import msgspec

from truing_data.agreement.coefficients import wilson
from truing_data.agreement.reading import Comparison

RUN = 13
"""Words in a row that two prompts hardly share by chance (GPT-3, arXiv:2005.14165, appendix C)."""


class Share(msgspec.Struct):
    """So many of so many, with the 95 % interval; no share where there is nothing."""

    count: int
    of: int
    share: float | None
    low: float | None
    high: float | None


class Lengths(msgspec.Struct):
    """How length goes with winning, in characters. longer_wins: of decided pairs whose answers differ in length."""

    longer_wins: Share
    alike: int
    better: float
    worse: float
    median_difference: float


class Copies(msgspec.Struct):
    """What is missing, and what there is more than once.

    empty: pairs with an empty text. equal: whose answers are one and the same, alike: but for case and signs. exact:
    rows that repeat an earlier one. turned: that repeat one with the answers exchanged. contradictions: repeated pairs
    of which different answers won. prompts: different ones; most: how often the most frequent one comes.
    """

    empty: int
    equal: int
    alike: int
    exact: int
    turned: int
    contradictions: int
    prompts: int
    most: int


class Overlap(msgspec.Struct):
    """How much of another file is in this one, by its rows: what a model could know before it is measured there.

    openings: first turns of conversations. runs: prompts that share 13 words in a row with some prompt here.
    """

    path: str
    rows: int
    prompts: Share | None
    openings: Share | None
    runs: Share | None
    answers: Share | None
    pairs: Share | None


def share(count: int, of: int) -> Share:
    """A share with its interval. Counts may be numpy's, which are no JSON."""
    count, of = int(count), int(of)
    return Share(count, of, count / of, *wilson(count, of)) if of else Share(0, 0, None, None, None)


def plain(text: str) -> str:
    """Words alone: no case, no punctuation, single spaces. A text of signs alone stays as it is."""
    return " ".join(re.findall(r"\w+", text.lower())) or text.strip()


def lengths(found: Iterable[Comparison]) -> Lengths | None:
    """None where no pair has two texts and a winner."""
    sides = [(len(better), len(worse)) for better, worse in _decided(found)]
    if not sides:
        return None
    differing = [(better, worse) for better, worse in sides if better != worse]
    return Lengths(
        share(sum(better > worse for better, worse in differing), len(differing)),
        len(sides) - len(differing),
        mean(better for better, _ in sides),
        mean(worse for _, worse in sides),
        median(better - worse for better, worse in sides),
    )


def copies(found: Sequence[Comparison]) -> Copies:
    """What comes more than once."""
    seen: dict[Any, set[str | None]] = {}
    exact = turned = contradictions = 0
    for one in found:
        if one.first is None or one.second is None or one.first == one.second:
            continue
        there, exchanged = (one.prompt, one.first, one.second), (one.prompt, one.second, one.first)
        exact += there in seen
        turned += there not in seen and exchanged in seen
        winner = {"first": one.first, "second": one.second}.get(one.winner or "")
        before = seen.get(there, set()) | seen.get(exchanged, set())
        contradictions += winner is not None and bool(before - {winner, None})
        seen.setdefault(there, set()).add(winner)
    texts = [(one.first, one.second) for one in found if one.first is not None and one.second is not None]
    prompts = Counter(one.prompt for one in found if one.prompt is not None)
    return Copies(
        sum(
            any(text is not None and not text.strip() for text in (one.prompt, one.first, one.second)) for one in found
        ),
        sum(first == second for first, second in texts),
        sum(first != second and plain(first) == plain(second) for first, second in texts),
        exact,
        turned,
        contradictions,
        len(prompts),
        max(prompts.values(), default=0),
    )


def overlap(found: Sequence[Comparison], other: Sequence[Comparison], path: str, rows: int) -> Overlap:
    """What of `other` is in `found` already."""
    prompts = {plain(one.prompt) for one in found if one.prompt}
    runs = {run for prompt in prompts for run in _runs(prompt)}
    theirs = [plain(one.prompt) for one in other if one.prompt]
    return Overlap(
        path,
        rows,
        _in(theirs, prompts),
        _in(
            [plain(one.opening) for one in other if one.opening],
            {plain(one.opening) for one in found if one.opening},
        ),
        share(sum(any(run in runs for run in _runs(prompt)) for prompt in theirs), len(theirs)) if theirs else None,
        _in([text for one in other for text in _answers(one)], {text for one in found for text in _answers(one)}),
        _in([pair for one in other if (pair := _pair(one))], {pair for one in found if (pair := _pair(one))}),
    )


def _decided(found: Iterable[Comparison]) -> Iterator[tuple[str, str]]:
    """The better and the worse text of every pair that has them."""
    for one in found:
        if one.first is not None and one.second is not None and one.winner in ("first", "second"):
            yield (one.first, one.second) if one.winner == "first" else (one.second, one.first)


def _answers(one: Comparison) -> list[str]:
    return [plain(text) for text in (one.first, one.second) if text]


def _pair(one: Comparison) -> Any:
    """A prompt with its two answers, whichever comes first."""
    answers = _answers(one)
    return (plain(one.prompt or ""), frozenset(answers)) if len(answers) == 2 else None


def _runs(prompt: str) -> Iterator[int]:
    words = prompt.split(" ")
    for at in range(len(words) - RUN + 1):
        yield hash(tuple(words[at : at + RUN]))


def _in(theirs: Sequence[Any], ours: set[Any]) -> Share | None:
    return share(sum(one in ours for one in theirs), len(theirs)) if theirs and ours else None

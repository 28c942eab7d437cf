"""How different completions are from each other, and from what they have said themselves.

n-grams are counted on tokens, so nothing depends on how words are told apart. Everything is exact; self-BLEU of all
completions of a prompt takes one pass over their n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import torch

from truing.fields import GROUP, LOGPROBS_OLD, SCORE_PARTS, SCORES, SEQ, TOKENS, Batch
from truing.run import Run
from truing_monitor import menu_policy

Tokens = Sequence[int]
_NONE = 0.1
"""what is counted where no n-gram of an order is found again: method 1 of Chen and Cherry, 2014, as in NLTK"""


class Diversity:
    """Measures what is sampled."""

    def __init__(self, spec: menu_policy.Diversity, run: Run) -> None:
        self._spec = spec

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], 1 minus self-BLEU, and what else is measured as SCORE_PARTS [seq]."""
        groups = [int(group) for group in batch[GROUP]]
        sizes = torch.bincount(batch[SEQ], minlength=len(groups)).tolist()
        said = [part.tolist() for part in batch[TOKENS].split(sizes)]
        parts: list[dict[str, float]] = [{} for _ in said]
        for group in dict.fromkeys(groups):
            places = [at for at, other in enumerate(groups) if other == group]
            some = [said[at] for at in places]
            different = distinct(some, self._spec.n)
            for at, bleu in zip(places, self_bleu(some, self._spec.order), strict=True):
                parts[at] = {
                    "self-bleu": bleu,
                    "distinct": different,
                    "repetition": repetition(said[at], self._spec.n),
                }
        if LOGPROBS_OLD in batch:
            for part, logprobs in zip(parts, batch[LOGPROBS_OLD].split(sizes), strict=True):
                part["entropy"] = -float(logprobs.mean()) if len(logprobs) else 0.0
        scores = torch.tensor([1 - part["self-bleu"] for part in parts])
        return batch.put_all({SCORES: scores, SCORE_PARTS: parts})


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[int, ...]]:
    """How often each n-gram is in a text."""
    return Counter(zip(*(tokens[at:] for at in range(n)), strict=False))


def distinct(texts: Sequence[Tokens], n: int) -> float:
    """How many different n-grams there are, as a share of all; 1 where there are none."""
    counts: Counter[tuple[int, ...]] = Counter()
    for tokens in texts:
        counts += ngrams(tokens, n)
    return len(counts) / counts.total() if counts else 1.0


def repetition(tokens: Tokens, n: int) -> float:
    """The share of a text's n-grams that were in it before; 0 where there are none."""
    counts = ngrams(tokens, n)
    return 1 - len(counts) / counts.total() if counts else 0.0


def self_bleu(texts: Sequence[Tokens], order: int) -> list[float]:
    """BLEU of each text with all others as its references (Papineni et al., 2002; arXiv:1802.01886).

    The geometric mean of the clipped precisions of 1-grams to `order`-grams, those that a text is long enough for, with
    a count of 0.1 where nothing is found; times exp(1 - r / c) if the text, of length c, is shorter than r, the length
    of the reference nearest to it. A text alone is like nothing: 0. Two that are empty are alike: 1.
    """
    if len(texts) < 2:
        return [0.0 for _ in texts]
    counts = [[ngrams(tokens, n) for tokens in texts] for n in range(1, order + 1)]
    most = [_two_most(of) for of in counts]
    found: list[float] = []
    for at, tokens in enumerate(texts):
        if not tokens:
            found.append(float(any(not other for place, other in enumerate(texts) if place != at)))
            continue
        logs = [
            math.log(_precision(of[at], at, two))
            for n, (of, two) in enumerate(zip(counts, most, strict=True), 1)
            if len(tokens) >= n
        ]
        lengths = [len(other) for place, other in enumerate(texts) if place != at]
        found.append(_brevity(len(tokens), lengths) * math.exp(fmean(logs)))
    return found


def _two_most(counts: Sequence[Counter[tuple[int, ...]]]) -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Of every n-gram the text that has it most often, how often that is, and how often it is in the next one: so the
    most among all others is known for each text."""
    most: dict[tuple[int, ...], tuple[int, int, int]] = {}
    for at, of in enumerate(counts):
        for gram, count in of.items():
            who, first, second = most.get(gram, (-1, 0, 0))
            most[gram] = (at, count, first) if count > first else (who, first, max(second, count))
    return most


def _precision(of: Counter[tuple[int, ...]], at: int, most: dict[tuple[int, ...], tuple[int, int, int]]) -> float:
    """The share of a text's n-grams that are in another, each at most as often as in the one that has it most."""
    clipped = 0
    for gram, count in of.items():
        who, first, second = most[gram]
        clipped += min(count, second if who == at else first)
    return (clipped or _NONE) / of.total()


def _brevity(length: int, others: Sequence[int]) -> float:
    """1, or less for a text that is shorter than the reference nearest in length; of two as near the shorter counts."""
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= nearest else math.exp(1 - nearest / length)

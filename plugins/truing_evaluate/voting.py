"""What a vote among n completions is worth, from N of them.

Completions vote for their answers, each with one vote (arXiv:2203.11171) or with a weight; the answer with most wins.
Its truth is averaged over all subsets of n completions where they are few, else over as many random ones. Which those
are depends on the prompt's id alone.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from itertools import combinations
from typing import Literal

import numpy as np

from truing_evaluate.intervals import Array, Whole

SUBSETS = 1000

Weigh = Literal["scores", "sigmoid", "softmax"]


def vote(answers: Whole, weights: Array, truth: Array, n: int, name: str) -> float:
    """The expected truth of the answer that wins among n completions out of N.

    answers [completion] number of each one's answer, -1 for none; weights [completion], none of them negative; truth
    [completion]; name: the prompt's id. Answers that tie share the win, and the truth of an answer is the mean over
    those who gave it. Where nobody answers, one of them is taken blindly. Raises ValueError for a negative weight,
    which would turn a vote round.
    """
    if (weights < 0).any():
        raise ValueError("a vote cannot weigh less than nothing")
    picked = subsets(len(answers), n, name)
    gave = (answers[:, None] == np.arange(max(int(answers.max()) + 1, 1))).astype(float)
    count = picked @ gave
    total = picked @ (gave * weights[:, None])
    most = total.max(1, keepdims=True)
    first = (total >= most - 1e-9 * np.abs(most)) & (count > 0)
    worth = (picked @ (gave * truth[:, None])) / np.maximum(count, 1)
    won = (first * worth).sum(1) / np.maximum(first.sum(1), 1)
    return float(np.where(first.any(1), won, picked @ truth / n).mean())


def weighed(scores: Array, how: Weigh) -> Array:
    """Weights of votes. scores [completion]: as they are, or made positive by a sigmoid or a softmax."""
    if how == "softmax":
        return np.exp(scores - scores.max())
    return np.exp(-np.logaddexp(0, -scores)) if how == "sigmoid" else scores


def subsets(count: int, n: int, name: str) -> Array:
    """Subsets of n out of `count` things, [subset, thing], 1 where a thing is in it: all of them, or SUBSETS random
    ones."""
    if math.comb(count, n) <= SUBSETS:
        chosen = np.array(list(combinations(range(count), n)))
    else:
        seed = int.from_bytes(blake2b(f"{n}\x1f{name}".encode(), digest_size=8).digest(), "big")
        chosen = np.random.default_rng(seed).random((SUBSETS, count)).argpartition(n - 1, axis=1)[:, :n]
    picked = np.zeros((len(chosen), count))
    np.put_along_axis(picked, chosen, 1.0, axis=1)
    return picked

"""Best of n by a proxy: where rules would stop, and what ensembles of its members are worth, from one set of samples.

n doubles, and a rule is asked after each doubling, as `loop.until` is at each look. A rule that probes sees gold labels
of what was chosen for a few prompts, one label a prompt and a doubling; what it comes to is said by the other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tests.science.children import rows

from truing.until import Best, Until, Watch
from truing_evaluate.bestof import best_of, kl_bound

Array = NDArray[np.float64]
PROBED = "gold, probed, and back"
GOLD, OTHER, LENGTH, KL = "holdout/score/gold", "holdout/score/other", "holdout/sample/length", "holdout/score/kl"
PROMPTS, ORDERS, TOGETHER = 26, 10, 5
"""Prompts that are probed, orders in which their samples come, and members of an ensemble."""


class Samples(NamedTuple):
    """scores [prompt, sample] by the name of who gave them; length [prompt, sample], in characters; ns [doubling]."""

    scores: Mapping[str, Array]
    length: Array
    ns: Sequence[int]


class Rule(NamedTuple):
    """A rule that ends doubling or learning, and by what the best look is told to which it goes back."""

    name: str
    until: Sequence[Until]
    best: Best | None = None


class Stopped(NamedTuple):
    """What a rule came to. end: the n after which it stops; n: the one that is kept; gold: gained there; most: gained
    at the n that others say is best; labels: of gold, that it asked for."""

    end: float
    n: float
    gold: float
    most: float
    proxy: float
    labels: float


def samples(run: Path) -> Samples:
    """All that was sampled and scored."""
    every = rows(run / "best" / "data" / "groups.jsonl")
    names = every[0]["score_parts"][0]
    scores = {name: np.array([[part[name] for part in row["score_parts"]] for row in every]) for name in names}
    length = np.array([[float(len(text)) for text in row["completions"]] for row in every])
    return Samples(scores, length, [2**at for at in range(length.shape[1].bit_length())])


def expected(by: Array, of: Array, ns: Sequence[int]) -> Array:
    """What the best of n by some scores is of something, [prompt, n]."""
    return np.array([[best_of(scores, truth, n) for n in ns] for scores, truth in zip(by, of, strict=True)])


# Ensembles


def ensembles(it: Samples, penalty: float) -> Mapping[str, Array]:
    """Gold of the best of all samples [prompt], by one member, by the worst case of some, and by their mean less
    `penalty` times their variance: the mean over members, and over all ensembles that can be made of them."""
    members = np.array([scores for name, scores in it.scores.items() if name.startswith("member-")])
    some = [members[list(chosen)] for chosen in combinations(range(len(members)), TOGETHER)]
    judged = {
        "one": list(members),
        "wco": [each.min(0) for each in some],
        "uwo": [each.mean(0) - penalty * each.var(0, ddof=1) for each in some],
    }
    gold, at = it.scores["gold"], np.arange(len(it.length))
    return {name: np.mean([gold[at, by.argmax(1)] for by in ways], 0) for name, ways in judged.items()}


# Rules


def rules(length: float) -> list[Rule]:
    """length: of completions at first."""
    back = Best(metric=GOLD)
    return [
        Rule("none", []),
        Rule(PROBED, [Until(metric=GOLD, patience=2)], back),
        Rule("gold, probed, less patience, and back", [Until(metric=GOLD, patience=1)], back),
        Rule("held-out reward model, and back", [Until(metric=OTHER, patience=2)], Best(metric=OTHER)),
        *(Rule(f"KL budget, {nats:g} nats", [Until(metric=KL, above=nats)]) for nats in (0.5, 1.0, 2.0, 4.0)),
        Rule(
            "length, a quarter off",
            [Until(metric=LENGTH, above=1.25 * length), Until(metric=LENGTH, below=0.75 * length)],
        ),
    ]


def outcomes(it: Samples, size: str) -> Mapping[str, Stopped]:
    """What each rule comes to, the mean over proxies of a size, over which prompts are probed and in what order. The
    held-out reward model of each proxy is the next one."""
    proxies = [scores for name, scores in it.scores.items() if name.split("-")[0] == size]
    chance, found = np.random.default_rng(0), dict[str, list[Stopped]]()
    for at, proxy in enumerate(proxies):
        told = [expected(proxy, of, it.ns) for of in (it.scores["gold"], proxy, proxies[at - 1], it.length)]
        for probed in np.array_split(chance.permutation(len(proxy)), len(proxy) // PROMPTS):
            for _ in range(ORDERS):
                asked = _asked(proxy[probed], it.scores["gold"][probed], it.ns, chance)
                for rule in rules(told[3][:, 0].mean()):
                    found.setdefault(rule.name, []).append(_stopped(rule, it.ns, asked, probed, told))
    return {name: Stopped(*np.mean(some, 0).tolist()) for name, some in found.items()}


def _asked(proxy: Array, gold: Array, ns: Sequence[int], chance: np.random.Generator) -> Array:
    """Gold of the one of the first n samples, in any order, that the proxy likes best, [n]: the mean over prompts."""
    order = chance.permuted(np.tile(np.arange(proxy.shape[1]), (len(proxy), 1)), axis=1)
    proxy, gold = np.take_along_axis(proxy, order, 1), np.take_along_axis(gold, order, 1)
    return np.array([gold[np.arange(len(gold)), proxy[:, :n].argmax(1)].mean() for n in ns])


def _stopped(rule: Rule, ns: Sequence[int], asked: Array, probed: NDArray[np.int64], told: Sequence[Array]) -> Stopped:
    gold, proxy, other, length = told
    watch, mark, end = Watch(rule.until, {}), None, len(ns) - 1
    for at, n in enumerate(ns):
        metrics = {
            "score/gold": float(asked[at]),
            "score/other": float(other[:, at].mean()),
            "sample/length": float(length[:, at].mean()),
            "score/kl": kl_bound(n),
        }
        mark = (rule.best.better(at, metrics, mark) or mark) if rule.best else None
        if watch.enough(metrics, held_out=True):
            end = at
            break
    kept = mark.step if mark else end
    others = np.delete(gold, probed, 0)
    gained, pleased = others[:, kept] - others[:, 0], proxy[:, kept] - proxy[:, 0]
    labels = len(probed) * (end + 1) if any(each.metric == GOLD for each in rule.until) else 0
    return Stopped(ns[end], ns[kept], gained.mean(), _most(others), pleased.mean(), labels)


def _most(gold: Array) -> float:
    """Gold gained at the best n. Half of the prompts say which that is and the other half what it is worth, in turn:
    the largest of some noisy means is too large."""
    halves = gold[::2].mean(0), gold[1::2].mean(0)
    return float(np.mean([two[one.argmax()] - two[0] for one, two in (halves, halves[::-1])]))

"""Gold and proxy along the way of a policy that is made to please the proxy, prompt by prompt.

Best of n goes along n: one file of samples serves every n, without bias. A policy that learns goes along its steps: a
file has what it wrote at each version of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from truing_evaluate.bestof import best_of, kl_bound
from truing_evaluate.intervals import Array, draws
from truing_evaluate.labelled import powers
from truing_evaluate.laws import Way
from truing_evaluate.rows import BadValue, Row, field, number

PARTS, VERSION = "score_parts", "version"
_POINTS = 20
"""A policy that learned for more steps than these has as many points, each of several steps."""


class Curve(NamedTuple):
    """at [point]: n, or the mean step. gold, proxy, kl [prompt, point]: means over a prompt's completions, NaN where it
    was not asked. start [prompt]: gold before anything was done, which gold is counted from. completions [point]."""

    name: str
    way: Way
    at: Array
    gold: Array
    proxy: Array
    kl: Array
    start: Array
    completions: Array


class Drawn(NamedTuple):
    """The points of a curve over prompts that are drawn anew, the first draw all of them once. gold is counted from the
    start of its draw. All [draw, point]."""

    gold: Array
    proxy: Array
    kl: Array


def part(row: Row, name: str) -> Array:
    """What a member of a `mix` said of each completion [seq]. Raises BadValue."""
    said = field(row, PARTS)
    if not isinstance(said, list) or len(said) != len(row.texts):
        raise BadValue(f'"{PARTS}" is no list as long as "completions"')
    if lacking := [entry for entry in said if not isinstance(entry, dict) or name not in entry]:
        known = ", ".join(sorted(lacking[0])) if isinstance(lacking[0], dict) else "nothing"
        raise BadValue(f'no "{name}" in "{PARTS}"', f"there is {known}")
    return np.array([number(entry[name], f'"{name}", entry {at}') for at, entry in enumerate(said, 1)])


def best_curve(name: str, gold: Sequence[Array], proxy: Sequence[Array]) -> Curve:
    """The best of n by the proxy, for n = 1, 2, 4 ... as far as every prompt goes. gold, proxy [seq] of each prompt."""
    least = min(map(len, gold))
    ns = powers(least)
    pairs = list(zip(proxy, gold, strict=True))
    worth = np.array([[best_of(scores, truth, n) for n in ns] for scores, truth in pairs])
    pleased = np.array([[best_of(scores, scores, n) for n in ns] for scores in proxy])
    apart = np.array([[kl_of_best(scores, n) for n in ns] for scores in proxy])
    return Curve(
        name,
        "best",
        np.array(ns, dtype=float),
        worth,
        pleased,
        apart,
        worth[:, 0],
        np.full(len(ns), float(sum(map(len, gold)))),
    )


def learned_curve(name: str, asked: Sequence[tuple[str, int, Array, Array, Array]]) -> Curve:
    """What a policy wrote as it learned. asked: of every time that a prompt was asked its name, the version of the
    weights, and gold, proxy and divergence [seq].

    Where some prompts were asked again and again, as those of a holdout are, they alone count: others differ from step
    to step, and prompts differ more than policies do.
    """
    asked = again_and_again(asked)
    prompts = {prompt: at for at, prompt in enumerate(sorted({prompt for prompt, *_ in asked}))}
    versions = sorted({version for _, version, *_ in asked})
    wide = -(-len(versions) // _POINTS)
    place = {version: at // wide for at, version in enumerate(versions)}
    size = (len(prompts), place[versions[-1]] + 1)
    sums, counts, start = np.zeros((3, *size)), np.zeros(size), np.zeros((2, len(prompts)))
    for prompt, version, *values in asked:
        at = prompts[prompt], place[version]
        sums[:, at[0], at[1]] += [value.sum() for value in values]
        counts[at] += len(values[0])
        if version == versions[0]:
            start[:, at[0]] += values[0].sum(), len(values[0])
    with np.errstate(invalid="ignore"):
        gold, proxy, kl = sums / counts
        began = start[0] / start[1]
    steps = [float(np.mean([version for version in versions if place[version] == at])) for at in range(size[1])]
    return Curve(name, "learned", np.array(steps), gold, proxy, kl, began, counts.sum(0))


def again_and_again(
    asked: Sequence[tuple[str, int, Array, Array, Array]],
) -> Sequence[tuple[str, int, Array, Array, Array]]:
    """The prompts that were asked at the most versions, from the first on; all prompts if that is one version each."""
    versions: dict[str, set[int]] = {}
    for prompt, version, *_ in asked:
        versions.setdefault(prompt, set()).add(version)
    first = min(min(some) for some in versions.values())
    most = max((len(some) for some in versions.values() if first in some), default=1)
    if most == 1:
        return asked
    return [it for it in asked if first in versions[it[0]] and len(versions[it[0]]) == most]


def redrawn(curve: Curve) -> Drawn:
    """The points of a curve, first as they are, then over prompts drawn with replacement."""
    prompts = len(curve.gold)
    weights = np.concatenate([np.ones((1, prompts)), *draws(prompts)])
    began = _means(weights, curve.start[:, None])
    gold, proxy, kl = (_means(weights, values) for values in (curve.gold, curve.proxy, curve.kl))
    return Drawn(gold - began, proxy, np.maximum(kl, 0.0))


def averaged(every: Sequence[Drawn], chance: np.random.Generator) -> Drawn:
    """The mean of curves that were measured at the same points of as many prompts: the first draw of all of them once,
    the others of curves drawn with replacement. Prompts are drawn in common."""
    count, draws = len(every), len(every[0].gold)
    weights = np.concatenate([np.ones((1, count)), chance.multinomial(count, [1 / count] * count, size=draws - 1)])
    return Drawn(*(np.einsum("dc,cdp->dp", weights / count, np.stack(values)) for values in zip(*every, strict=True)))


def distances(curve: Curve, drawn: Drawn) -> Array:
    """The square root of the divergence [draw, point]: for best of n of its bound, which arXiv:2210.10760 uses."""
    if curve.way == "learned":
        return np.sqrt(drawn.kl)
    bounds = np.sqrt([kl_bound(int(n)) for n in curve.at])
    return np.broadcast_to(bounds, drawn.gold.shape)


def kl_of_best(scores: Array, n: int) -> float:
    """How far, in nats, the best-scored of n is from one draw, estimated from a sample of scores [seq].

    Scores that come again are taken for outcomes that have these shares, of which the best of n draws uniformly; a
    score that is there once for a piece of a continuous distribution, so without ties it is log n - (n - 1) / n. The
    truth is smaller if scores that were seen once are often drawn.
    """
    counts = np.unique(scores, return_counts=True)[1]
    ends = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    low, high = ends[:-1], ends[1:]
    mass = high**n - low**n
    with np.errstate(divide="ignore", invalid="ignore"):
        outcomes = np.where(mass > 0, mass * np.log(mass / (high - low)), 0.0)
    return float(np.where(counts > 1, outcomes, _continuous(high, n) - _continuous(low, n)).sum())


def _continuous(u: Array, n: int) -> Array:
    """The integral from 0 to u of n t^(n-1) log(n t^(n-1)) dt."""
    logs = np.log(np.where(u > 0, u, 1.0))
    return u**n * (np.log(n) + (n - 1) * logs - (n - 1) / n)


def _means(weights: Array, values: Any) -> Array:
    """Means over prompts [draw, point], of those that were asked at a point; NaN where none of them was drawn."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(there, values, 0.0)) / (weights @ there)

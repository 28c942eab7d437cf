"""The report on overoptimization: what pleasing a proxy did to gold, how far it went, and by which law."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from truing.errors import Problem, UserError, did_you_mean
from truing.journal import GROUPS
from truing_evaluate import rows
from truing_evaluate.bestof import kl_bound
from truing_evaluate.curves import (
    PARTS,
    VERSION,
    Curve,
    Drawn,
    averaged,
    best_curve,
    distances,
    learned_curve,
    part,
    redrawn,
)
from truing_evaluate.intervals import DRAWS, Array
from truing_evaluate.laws import Fitted, Way, fitted, interval, law, verdict
from truing_evaluate.rows import Scored, field, numbers
from truing_evaluate.shapes import Figure, Shape

KEPT = "scores.jsonl"
"""What a phase that learns writes where its `mix` has keep = true."""
_FORMULAS: dict[Way, str] = {"best": "d (alpha - beta d)", "learned": "d (alpha - beta log d)"}
_FEWEST = 3
"""Two points determine a law, and would always fit it."""


class Spot(Shape, frozen=True, kw_only=True):
    """A point of a course. n: of how many the best is chosen, or after how many steps. gold: counted from the start.
    kl: in nats, estimated; bound: what the best of n cannot pass."""

    n: float
    completions: int
    gold: Figure
    proxy: Figure
    kl: Figure
    bound: float | None


class Law(Shape, frozen=True, kw_only=True):
    """alpha and beta of a law, the square root of the divergence at its peak, gold there, and what the data say of the
    peak. Infinite where gold falls nowhere. misfit: how far gold is from the law, root of the mean square."""

    formula: str
    alpha: Figure
    beta: Figure
    peak: Figure
    top: Figure
    misfit: float
    verdict: str


class Apart(Shape, frozen=True, kw_only=True):
    """A course less another that was measured on the same prompts. gold: at the last point; gain: the most there was of
    either; place: d where that was; peak: d of the peaks of the laws."""

    name: str
    gold: Figure
    gain: Figure
    place: Figure
    peak: Figure


class Course(Shape, frozen=True, kw_only=True):
    """What pleasing a proxy did to gold, or on average each of several, the members. start: gold before; best: the
    point of most gold, gain: how much was gained there. fall: gold lost from there to the last point; proxy_gain: what
    the proxy gained meanwhile. law: None where there are too few points for one. apart: from the course that was asked
    about, of those that were measured as it was."""

    name: str
    way: Way
    members: list[str]
    prompts: int
    start: float
    best: float
    gain: Figure
    fall: Figure
    proxy_gain: Figure
    law: Law | None
    apart: Apart | None
    points: list[Spot]


class Overoptimization(Shape, frozen=True, kw_only=True):
    """Gold along the ways of all proxies."""

    file: str
    gold: str
    intervals: str
    courses: list[Course]


class Measured(NamedTuple):
    """A course before it is told. members: of one curve its own name. curve: at which points. d [draw, point]"""

    name: str
    members: list[str]
    curve: Curve
    drawn: Drawn
    d: Array
    fitted: Fitted


def report(
    paths: Sequence[Path],
    gold: str,
    proxies: Sequence[str] = (),
    kl: str = "kl",
    together: Sequence[str] = (),
    against: str = "",
) -> Overoptimization:
    """What is told of runs, phases or files. Raises UserError for what is not there.

    gold, kl: names of members of a `mix`. proxies: those of best-of-n that are looked at, all when empty. together:
    patterns; the courses whose names match one become their mean. against: the course that others are compared with.
    """
    files = [file for path in paths for file in found(path, gold)]
    curves = [curve for file in files for curve in _curves(file, gold, proxies, kl)]
    known = sorted({curve.name for curve in curves})
    if lacking := [name for name in proxies if name not in known]:
        raise UserError(Problem("--proxy", f'no proxy called "{lacking[0]}"', did_you_mean(lacking[0], known)))
    chance = np.random.default_rng(0)
    measured = [_measured(name, some, chance) for name, some in _gathered(curves, together)]
    names = [it.name for it in measured]
    if against and against not in names:
        raise UserError(Problem("--against", f'no course called "{against}"', did_you_mean(against, names)))
    other = next((it for it in measured if it.name == against), None)
    over = "prompts and proxies" if any(len(it.members) > 1 for it in measured) else "prompts"
    return Overoptimization(
        file=", ".join(map(str, paths)),
        gold=gold,
        intervals=f"95 %, bootstrap over {over}, {DRAWS:,} draws",
        courses=[course(it, other) for it in measured],
    )


def _gathered(curves: Sequence[Curve], together: Sequence[str]) -> Iterator[tuple[str, list[Curve]]]:
    """Curves that become one course, where the first of them is. Raises UserError for those that cannot."""
    of: dict[str, list[Curve]] = {
        pattern: [curve for curve in curves if fnmatchcase(curve.name, pattern)] for pattern in together
    }
    for pattern, some in of.items():
        if not some:
            known = ", ".join(sorted({curve.name for curve in curves}))
            raise UserError(Problem("--together", f'no course matches "{pattern}"', f"there is {known}"))
        if odd := [curve.name for curve in some if not alike(curve, some[0])]:
            what = f"{odd[0]} and {some[0].name} were not measured at the same points of as many prompts"
            raise UserError(Problem("--together", what, "take the mean of what was measured alike"))
    for curve in curves:
        patterns = [pattern for pattern in together if fnmatchcase(curve.name, pattern)]
        if not patterns:
            yield curve.name, [curve]
        for pattern in patterns:
            if some := of.pop(pattern, []):
                yield pattern, some


def _measured(name: str, curves: list[Curve], chance: np.random.Generator) -> Measured:
    drawn = averaged([redrawn(curve) for curve in curves], chance)
    first = curves[0]
    d = distances(first, drawn)
    return Measured(name, [curve.name for curve in curves], first, drawn, d, fitted(d, drawn.gold, first.way))


def alike(one: Curve, other: Curve) -> bool:
    """Whether two curves have the same points, of as many prompts."""
    return one.way == other.way and one.gold.shape == other.gold.shape and bool((one.at == other.at).all())


def found(path: Path, gold: str) -> list[Path]:
    """The files of a run or of a phase whose completions were scored by several, gold among them if it is in any.
    Raises UserError."""
    if not path.is_dir():
        return [path]
    here = [
        path / KEPT,
        path / "data" / GROUPS,
        *sorted(path.glob(f"*/{KEPT}")),
        *sorted(path.glob(f"*/data/{GROUPS}")),
    ]
    said = {file: _first(file) for file in here if file.is_file()}
    files = [file for file, line in said.items() if f'"{PARTS}"'.encode() in line]
    if not files:
        mend = f'[scorer] use = "mix" says what each of several scorers thinks; with keep = true learning writes {KEPT}'
        raise UserError(Problem(str(path), f'no phase here has written "{PARTS}"', mend))
    return [file for file in files if f'"{gold}"'.encode() in said[file]] or files


def _first(file: Path) -> bytes:
    with file.open("rb") as lines:
        return lines.readline()


def _curves(file: Path, gold: str, proxies: Sequence[str], kl: str) -> list[Curve]:
    data = rows.read(file)
    if len({version for row in data.rows if VERSION in row.values for version in row.values[VERSION]}) > 1:
        # The folder of its phase is what a run that learns is called.
        return [_learned(data, file.parent.name, gold, kl)]
    return _best(data, gold, [name for name in proxies if name in _names(data)] or _names(data), {gold, kl})


def _names(data: Scored) -> list[str]:
    return sorted({name for row in data.rows for entry in row.values.get(PARTS, []) for name in entry})


def _best(data: Scored, gold: str, proxies: Sequence[str], left_out: set[str]) -> list[Curve]:
    truth = data.each(lambda row: part(row, gold))
    return [
        best_curve(name, truth, data.each(lambda row, name=name: part(row, name)))
        for name in proxies
        if name not in left_out
    ]


def _learned(data: Scored, name: str, gold: str, kl: str) -> Curve:
    # What was scored again, after a resume or a failed attempt, counts once.
    once = {(row.id, *numbers(row, VERSION)[:1], *row.texts): row for row in data.rows}
    data = Scored(data.origin, list(once.values()))
    versions = data.each(lambda row: int(numbers(row, VERSION)[0]))
    truth, away = (data.each(lambda row, of=of: part(row, of)) for of in (gold, kl))
    scores = data.each(lambda row: np.array(numbers(row, "scores")))
    prompts = [str(field(row, "id")) for row in data.rows]
    return learned_curve(name, list(zip(prompts, versions, truth, scores, away, strict=True)))


def course(it: Measured, other: Measured | None) -> Course:
    """A course with its intervals and its law. other: the one it is compared with."""
    gold, proxy = it.drawn.gold, it.drawn.proxy
    best = int(np.nanargmax(gold[0]))
    fall = _figure(gold[:, best] - gold[:, -1])
    compared = other is not None and other is not it and alike(it.curve, other.curve)
    return Course(
        name=it.name,
        way=it.curve.way,
        members=it.members,
        prompts=len(it.curve.gold),
        start=float(np.nanmean(it.curve.start)),
        best=float(it.curve.at[best]),
        gain=_figure(gold[:, best]),
        fall=fall,
        proxy_gain=_figure(proxy[:, -1] - proxy[:, best]),
        law=_law(it, fall),
        apart=_apart(it, other) if compared else None,
        points=[_spot(it, at) for at in range(len(it.curve.at))],
    )


def _apart(it: Measured, other: Measured) -> Apart:
    one, two = it.drawn.gold, other.drawn.gold
    most = one[:, np.nanargmax(one[0])] - two[:, np.nanargmax(two[0])]
    return Apart(
        name=other.name,
        gold=_figure(one[:, -1] - two[:, -1]),
        gain=_figure(most),
        place=_figure(_place(it) - _place(other)),
        peak=_figure(_less(it.fitted.peak, other.fitted.peak)),
    )


def _place(it: Measured) -> Array:
    """d of the point of most gold [draw]."""
    return np.take_along_axis(it.d, np.nanargmax(it.drawn.gold, 1)[:, None], 1)[:, 0]


def _less(one: Array, other: Array) -> Array:
    """Differences of peaks [draw]: none between two that are nowhere, at infinity."""
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, one - other)


def _law(it: Measured, fall: Figure) -> Law | None:
    d, way = it.d[0], it.curve.way
    if (d > 0).sum() < _FEWEST:
        return None
    alpha, beta, peak, top = (interval(float(values[0]), values[1:]) for values in it.fitted)
    misfit = float(np.sqrt(np.nanmean((law(d, alpha.value, beta.value, way) - it.drawn.gold[0]) ** 2)))
    told = verdict(beta, peak, float(np.nanmax(d)), fall)
    return Law(formula=_FORMULAS[way], alpha=alpha, beta=beta, peak=peak, top=top, misfit=misfit, verdict=told)


def _spot(it: Measured, at: int) -> Spot:
    n = it.curve.at[at]
    return Spot(
        n=float(n),
        completions=int(it.curve.completions[at]),
        gold=_figure(it.drawn.gold[:, at]),
        proxy=_figure(it.drawn.proxy[:, at]),
        kl=_figure(it.drawn.kl[:, at]),
        bound=kl_bound(int(n)) if it.curve.way == "best" else None,
    )


def _figure(values: Array) -> Figure:
    return interval(float(values[0]), values[1:])

"""The report on overoptimization: what pleasing a proxy did to gold, how far it went, and by which law."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from truing.errors import Problem, UserError, did_you_mean
from truing.journal import GROUPS
from truing_evaluate import rows
from truing_evaluate.bestof import kl_bound
from truing_evaluate.curves import PARTS, VERSION, Curve, Drawn, best_curve, distances, learned_curve, part, redrawn
from truing_evaluate.intervals import DRAWS, Array
from truing_evaluate.laws import Way, fitted, interval, law, verdict
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


class Course(Shape, frozen=True, kw_only=True):
    """What pleasing one proxy did to gold. start: gold before; best: the point of most gold, gain: how much was gained
    there. fall: gold lost from there to the last point; proxy_gain: what the proxy gained meanwhile. law: None where
    there are too few points for one."""

    name: str
    way: Way
    prompts: int
    start: float
    best: float
    gain: Figure
    fall: Figure
    proxy_gain: Figure
    law: Law | None
    points: list[Spot]


class Overoptimization(Shape, frozen=True, kw_only=True):
    """Gold along the ways of all proxies."""

    file: str
    gold: str
    intervals: str
    courses: list[Course]


def report(paths: Sequence[Path], gold: str, proxies: Sequence[str], kl: str) -> Overoptimization:
    """What is told of runs, phases or files. Raises UserError for what is not there.

    gold, kl: names of members of a `mix`. proxies: those of best-of-n that are looked at, all when empty.
    """
    files = [file for path in paths for file in found(path)]
    courses = [course for file in files for course in _courses(file, gold, proxies, kl)]
    known = sorted({course.name for course in courses})
    if lacking := [name for name in proxies if name not in known]:
        raise UserError(Problem("--proxy", f'no proxy called "{lacking[0]}"', did_you_mean(lacking[0], known)))
    told = f"95 %, bootstrap over prompts, {DRAWS:,} draws"
    return Overoptimization(file=", ".join(map(str, paths)), gold=gold, intervals=told, courses=courses)


def found(path: Path) -> list[Path]:
    """The files of a run or of a phase whose completions were scored by several. Raises UserError."""
    if not path.is_dir():
        return [path]
    here = [
        path / KEPT,
        path / "data" / GROUPS,
        *sorted(path.glob(f"*/{KEPT}")),
        *sorted(path.glob(f"*/data/{GROUPS}")),
    ]
    files = [file for file in here if file.is_file() and _in_parts(file)]
    if not files:
        mend = f'[scorer] use = "mix" says what each of several scorers thinks; with keep = true learning writes {KEPT}'
        raise UserError(Problem(str(path), f'no phase here has written "{PARTS}"', mend))
    return files


def _in_parts(file: Path) -> bool:
    with file.open("rb") as lines:
        return f'"{PARTS}"'.encode() in lines.readline()


def _courses(file: Path, gold: str, proxies: Sequence[str], kl: str) -> Iterator[Course]:
    data = rows.read(file)
    if len({version for row in data.rows if VERSION in row.values for version in row.values[VERSION]}) > 1:
        # The folder of its phase is what a run that learns is called.
        curves = [_learned(data, file.parent.name, gold, kl)]
    else:
        curves = _best(data, gold, [name for name in proxies if name in _names(data)] or _names(data), {gold, kl})
    for curve in curves:
        yield course(curve)


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


def course(curve: Curve) -> Course:
    """A curve with its intervals and its law."""
    drawn = redrawn(curve)
    best = int(np.nanargmax(drawn.gold[0]))
    fall = _figure(drawn.gold[:, best] - drawn.gold[:, -1])
    return Course(
        name=curve.name,
        way=curve.way,
        prompts=len(curve.gold),
        start=float(np.nanmean(curve.start)),
        best=float(curve.at[best]),
        gain=_figure(drawn.gold[:, best]),
        fall=fall,
        proxy_gain=_figure(drawn.proxy[:, -1] - drawn.proxy[:, best]),
        law=_law(curve, drawn, fall),
        points=[_spot(curve, drawn, at) for at in range(len(curve.at))],
    )


def _law(curve: Curve, drawn: Drawn, fall: Figure) -> Law | None:
    apart = distances(curve, drawn)
    if (apart[0] > 0).sum() < _FEWEST:
        return None
    alpha, beta, peak, top = (interval(float(it[0]), it[1:]) for it in fitted(apart, drawn.gold, curve.way))
    misfit = float(np.sqrt(np.nanmean((law(apart[0], alpha.value, beta.value, curve.way) - drawn.gold[0]) ** 2)))
    told = verdict(beta, peak, float(np.nanmax(apart[0])), fall)
    formula = _FORMULAS[curve.way]
    return Law(formula=formula, alpha=alpha, beta=beta, peak=peak, top=top, misfit=misfit, verdict=told)


def _spot(curve: Curve, drawn: Drawn, at: int) -> Spot:
    return Spot(
        n=float(curve.at[at]),
        completions=int(curve.completions[at]),
        gold=_figure(drawn.gold[:, at]),
        proxy=_figure(drawn.proxy[:, at]),
        kl=_figure(drawn.kl[:, at]),
        bound=kl_bound(int(curve.at[at])) if curve.way == "best" else None,
    )


def _figure(values: Array) -> Figure:
    return interval(float(values[0]), values[1:])

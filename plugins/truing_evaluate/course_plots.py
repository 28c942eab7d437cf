"""The picture of overoptimization: gold and proxies against the square root of the divergence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from truing_evaluate.laws import Way, law
from truing_evaluate.overoptimization import Course, Overoptimization, Spot

_TITLES: dict[Way, str] = {"best": "best of n", "learned": "reinforcement learning"}


def picture(report: Overoptimization) -> Any:
    """matplotlib's figure: a panel for each way to please a proxy. Gold as points with their intervals, its law as a
    line; the proxy, counted from its own start, dashed."""
    ways = list(dict.fromkeys(course.way for course in report.courses))
    figure = sheet(5.5 * len(ways), 4.2)
    for at, way in enumerate(ways, 1):
        axes = figure.add_subplot(1, len(ways), at)
        axes.axhline(0, color="grey", linewidth=0.8)
        for course in report.courses:
            if course.way == way:
                _course(axes, course)
        axes.set_title(_TITLES[way])
        axes.set_xlabel("d = √KL, in √nat")
        axes.set_ylabel(f"{report.gold}, counted from the start")
        axes.legend(fontsize="small")
    return figure


def sheet(width: float, height: float) -> Any:
    """matplotlib's empty figure, in inches."""
    from matplotlib.figure import Figure

    # Not pyplot, which would look for a screen.
    return Figure(figsize=(width, height), layout="constrained")


def _course(axes: Any, course: Course) -> None:
    apart = [_apart(spot) for spot in course.points]
    gold = [spot.gold.value for spot in course.points]
    errors = [
        [max(0.0, spot.gold.value - spot.gold.low) for spot in course.points],
        [max(0.0, spot.gold.high - spot.gold.value) for spot in course.points],
    ]
    drawn = axes.errorbar(apart, gold, errors, fmt="o", markersize=3, linewidth=0.8, label=course.name)
    color = drawn.lines[0].get_color()
    first = course.points[0].proxy.value
    axes.plot(apart, [spot.proxy.value - first for spot in course.points], "--", color=color, linewidth=0.8, alpha=0.6)
    if course.law and math.isfinite(course.law.alpha.value):
        d = np.linspace(0, max(apart), 100)
        axes.plot(d, law(d, course.law.alpha.value, course.law.beta.value, course.way), color=color, linewidth=1.2)


def _apart(spot: Spot) -> float:
    return math.sqrt(spot.kl.value if spot.bound is None else spot.bound)

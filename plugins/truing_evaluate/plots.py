"""Pictures of a report, for MLflow, which brings matplotlib along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from truing_evaluate.course_plots import picture, sheet
from truing_evaluate.overoptimization import Overoptimization
from truing_evaluate.shapes import Bin, Choice, Margins, Report, Selection


def pictures(report: Report | Selection | Overoptimization) -> Mapping[str, Any]:
    """A matplotlib figure for each part of a report that is a curve, by its file name."""
    if isinstance(report, Overoptimization):
        return {"overoptimization.png": picture(report)}
    if isinstance(report, Selection):
        return {"selection.png": selection(report)} if report.truth and len(report.choices) > 1 else {}
    if report.pairs is None:
        return {}
    return {
        "reliability.png": reliability(report.pairs.calibration.table),
        "margins.png": margins(report.pairs.margins),
    }


def reliability(table: list[Bin]) -> Any:
    """How often the better-scored of two is the better one, against how sure the scores are."""
    figure, axes = _axes("confidence, σ(|margin|)", "right")
    axes.plot([0.5, 1], [0.5, 1], color="grey", linewidth=1)
    most = max(entry.pairs for entry in table)
    sizes = [20 + 180 * entry.pairs / most for entry in table]
    axes.scatter([entry.confidence for entry in table], [entry.accuracy for entry in table], s=sizes)
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("sizes: numbers of pairs")
    return figure


def margins(found: Margins) -> Any:
    """How many pairs have which margin; those left of 0 are judged wrong."""
    figure, axes = _axes("margin", "pairs")
    axes.stairs(found.counts, found.edges, fill=True)
    axes.axvline(0, color="grey", linewidth=1)
    return figure


def selection(report: Selection) -> Any:
    """What each way of choosing is worth, against how many there are to choose from."""
    figure, axes = _axes("completions to choose from", report.truth)
    for how in dict.fromkeys(chosen.how for choice in report.choices for chosen in choice.chosen):
        found = [(choice.n, truth) for choice in report.choices if (truth := _truth(choice, how)) is not None]
        line = axes.plot([n for n, _ in found], [truth.value for _, truth in found], marker="o", label=how)[0]
        low, high = ([getattr(truth, end) for _, truth in found] for end in ("low", "high"))
        axes.fill_between([n for n, _ in found], low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    best = [(choice.n, choice.oracle) for choice in report.choices if choice.oracle is not None]
    axes.plot(*zip(*best, strict=True), color="grey", linestyle=":", label="the best there is")
    axes.set_xscale("log", base=2)
    axes.legend()
    return figure


def _truth(choice: Choice, how: str) -> Any:
    return next((chosen.truth for chosen in choice.chosen if chosen.how == how), None)


def _axes(across: str, up: str) -> tuple[Any, Any]:
    figure = sheet(6, 4)
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes

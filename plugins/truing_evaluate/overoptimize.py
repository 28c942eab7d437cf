"""`truing overoptimize`: its options, what it prints, and the picture it draws."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from truing.errors import Problem, UserError
from truing_evaluate.commands import installed, pictures_of
from truing_reports.telling import Json, Mlflow, as_json, sent

if TYPE_CHECKING:
    from truing_evaluate.overoptimization import Apart, Course, Law, Overoptimization, Spot
    from truing_evaluate.shapes import Figure

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...", help="A run, RUN/PHASE, or a file of completions that a mix scored.", show_default=False
    ),
]
Gold = Annotated[str, typer.Option(metavar="NAME", help="The member of the mix that says what was meant.")]
Proxy = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Best of n by this member; may be repeated; else by every one.")
]
Kl = Annotated[str, typer.Option(metavar="NAME", help="The member that says how far a policy that learns has gone.")]
Together = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="The mean of all courses whose names match, 'few-*'; may be repeated."),
]
Against = Annotated[str, typer.Option(metavar="NAME", help="Say how other courses differ from this one.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw all of it: .png or .svg.")]


def overoptimize(
    runs: Files,
    gold: Gold = "gold",
    proxy: Proxy = None,
    kl: Kl = "kl",
    together: Together = None,
    against: Against = "",
    plot: Plot = None,
    json: Json = False,
    mlflow: Mlflow = False,
) -> None:
    """Say what pleasing a proxy does to gold: where gold peaks, and how far it falls behind that.

    Reads what a scorer `mix` said of samples, the best of n by each member, and what a mix with keep = true said while
    a policy learned. The laws of arXiv:2210.10760 are fitted.
    """
    installed("overoptimize")
    from truing_evaluate import overoptimization

    if plot is not None:
        _drawable(plot)
    report = overoptimization.report(runs, gold, proxy or [], kl, together or [], against)
    if plot is not None:
        _draw(report, plot)
    if mlflow:
        options = {"gold": gold, "proxy": proxy or [], "kl": kl, "together": together or [], "against": against}
        sent(report, "overoptimize", options, pictures_of(report))
    if json:
        as_json(report)
    else:
        _show(report)


def _show(report: Overoptimization) -> None:
    print(f"{report.file}: gold is {report.gold}, counted from where nothing was done")
    print(f"intervals: {report.intervals}")
    for course in report.courses:
        _show_course(course)


def _show_course(course: Course) -> None:
    from truing_evaluate.printing import columns, signed

    what = "best of n by" if course.way == "best" else "learned in"
    of = f", mean of {len(course.members)}" if len(course.members) > 1 else ""
    print(f"\n{what} {course.name}{of}, {course.prompts:,} prompts, gold {course.start:.3f} at the start")
    said = "at n =" if course.way == "best" else "after step"
    print(f"  most gold  {signed(course.gain)} {said} {course.best:g}")
    print(f"  since      {signed(_turned(course.fall))}, the proxy {signed(course.proxy_gain)}")
    if course.law:
        print(f"  law        {_law(course.law)}")
    if course.apart:
        print(f"  less {course.apart.name}: {_apart(course.apart)}")
    head = ("N", "KL <=", "KL") if course.way == "best" else ("STEP", "KL")
    columns((*head, "GOLD", "PROXY"), [_row(spot) for spot in course.points], "  ")


def _row(spot: Spot) -> tuple[str, ...]:
    from truing_evaluate.printing import signed

    bound = () if spot.bound is None else (f"{spot.bound:.2f}",)
    return (f"{spot.n:g}", *bound, f"{spot.kl.value:.2f}", signed(spot.gold), signed(spot.proxy))


def _law(law: Law) -> str:
    from truing_evaluate.printing import signed

    numbers = f"alpha {signed(law.alpha)}, beta {signed(law.beta)}, off by {law.misfit:.3f}"
    where = f"peak at d = {_plain(law.peak)}, {law.verdict}"
    return f"{law.formula}: {numbers}\n             {where}"


def _apart(apart: Apart) -> str:
    from truing_evaluate.printing import signed

    most = f"most gold {signed(apart.gain)}, its d {signed(apart.place)}, d of the law's peak {signed(apart.peak)}"
    return f"gold at the end {signed(apart.gold)}\n    {most}"


def _plain(told: Figure) -> str:
    return f"{told.value:.2f} [{told.low:.2f}, {told.high:.2f}]"


def _turned(told: Figure) -> Figure:
    """A loss as a gain; 0 stays without a sign."""
    return msgspec.structs.replace(told, value=0.0 - told.value, low=0.0 - told.high, high=0.0 - told.low)


def _drawable(path: Path) -> None:
    """Raises UserError before anything is computed."""
    if path.suffix not in (".png", ".svg"):
        raise UserError(Problem("--plot", f"{path.name} is no picture that can be drawn", "name it .png or .svg"))
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(Problem("--plot", "matplotlib is not installed", "pip install 'truing[mlflow]' brings it"))


def _draw(report: Overoptimization, path: Path) -> None:
    from truing_evaluate.course_plots import picture

    try:
        picture(report).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot write this file: {error.strerror}")) from None
    print(f"picture: {path}", file=sys.stderr)

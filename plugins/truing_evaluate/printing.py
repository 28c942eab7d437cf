"""Reports for people: what it comes to first, then tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from truing.errors import shown
from truing_evaluate.shapes import (
    Category,
    Difference,
    Figure,
    FirstErrors,
    Labelled,
    Lengths,
    Members,
    Pairwise,
    Recovered,
    Report,
    Sections,
    Selection,
    Steps,
)

_BAR = 40
Facts = Iterator[tuple[str, str]]


def show(report: Report) -> None:
    """Print all of a report."""
    print(f"{report.file}: {report.prompts:,} prompts")
    print(f"intervals: {report.intervals}")
    if report.pairs:
        _show_pairs(report.pairs, report.scores)
    if report.members:
        _facts(f"{report.members.members} members", _of_members(report.members))
    if report.labels:
        told = report.labels
        _facts(f"{report.scores} of {told.completions:,} completions, {told.right:,} of them right", _of_labels(told))
        rows = [
            (f"{best.n:,}", f"{best.prompts:,}", figure(best.truth), _share(best.oracle), f"{best.kl:.2f}")
            for best in told.best
        ]
        _table("best of n", ("N", "PROMPTS", "RIGHT", "ORACLE", "KL <="), rows)
    if report.steps:
        _facts(f"step_scores of {report.steps.solutions:,} solutions", _of_steps(report.steps))
        rows = [(it.how, _share(it.auroc), _share(it.length)) for it in report.steps.aggregates]
        _table("solutions by their steps", ("SCORE", "AUROC", "RANK CORRELATION WITH STEPS"), rows)


def compare(reports: Sequence[Report], differences: Sequence[Difference | None]) -> None:
    """Print files side by side. differences: of each but the first from the first."""
    print(f"intervals: {reports[0].intervals}")
    rows: list[tuple[str, ...]] = []
    for report, apart in zip(reports, [None, *differences], strict=True):
        pairs, gain = report.pairs, "" if apart is None else _gain(apart)
        if pairs:
            said = figure(pairs.half_credit), figure(pairs.calibration.nll), _share(pairs.calibration.ece)
            rows.append((report.file, f"{pairs.pairs:,}", *said, gain))
    if rows:
        _table("pairs", ("FILE", "PAIRS", "ACCURACY", "NLL", "ECE", "ACCURACY AGAINST THE FIRST"), rows)
    for key in dict.fromkeys(key for report in reports if report.pairs for key in report.pairs.by):
        grouped = [it for it in reports if it.pairs and key in it.pairs.by]
        rows = [(it.file, _worst(it.pairs.by[key]), figure(it.pairs.worst[key])) for it in grouped if it.pairs]
        _table(f"worst by {key}", ("FILE", "NAME", "HALF CREDIT"), rows)
    if any(report.labels for report in reports):
        rows = [(it.file, figure(it.labels.auroc), figure(it.labels.best[-1].truth)) for it in reports if it.labels]
        _table("right and wrong completions", ("FILE", "AUROC", "BEST OF ALL"), rows)
    if any(report.steps for report in reports):
        rows = [(it.file, figure(it.steps.at.f1), figure(it.steps.best.f1)) for it in reports if it.steps]
        _table("first wrong steps", ("FILE", "F1", "F1 AT ITS BEST THRESHOLD"), rows)


def _gain(apart: Difference) -> str:
    return f"{signed(apart.difference)} on {apart.pairs:,} pairs, {apart.turned:,} of them turned round"


def show_recovered(told: Sequence[Recovered]) -> None:
    """Print how much of the gap between the first and the last of several files those between recover."""
    if not told:
        return
    rows = [
        (
            it.file,
            f"{it.pairs:,}",
            f"{it.weak:.3f}, {it.own:.3f}, {it.ceiling:.3f}",
            signed(it.ahead),
            figure(it.recovered),
        )
        for it in told
    ]
    _table("gap recovered", ("FILE", "PAIRS", "WEAK, OWN, CEILING", "AHEAD OF WEAK", "RECOVERED"), rows)
    if without := max(it.without for it in told):
        print(f"  in {without:.1%} of the draws the ceiling is not above the weak one; they are left out")


def show_selection(told: Selection) -> None:
    """Print what ways to choose are worth."""
    print(f"{told.file}: {told.prompts:,} prompts, {told.completions:,} completions")
    if told.truth:
        print(f"truth: {told.truth}; intervals: {told.intervals}")
    if told.answer:
        none = f", none in {told.unanswered:,} of {told.completions:,} completions" if told.unanswered else ""
        print(f"answers: {told.answer}{none}; {told.subsets}")
    print()
    hows = [some.how for some in told.choices[0].chosen]
    scored = any(some.score is not None for some in told.choices[0].chosen)
    heads = ["N", "PROMPTS", *(how.upper() for how in hows if told.truth), *(["ORACLE"] if told.truth else [])]
    heads += ["SCORE", "KL <="] if scored else []
    rows: list[list[str]] = []
    for choice in told.choices:
        row = [f"{choice.n:,}", f"{choice.prompts:,}", *(figure(some.truth) for some in choice.chosen if some.truth)]
        row += [_share(choice.oracle)] if choice.oracle is not None else []
        score = next((some.score for some in choice.chosen if some.score is not None), None)
        rows.append([*row, f"{score:.3f}", f"{choice.kl:.2f}"] if score is not None else row)
    columns(heads, rows)
    if len({choice.prompts for choice in told.choices}) > 1:
        print("\nlines with other numbers of prompts are not of the same prompts: compare them with care")


def figure(told: Figure) -> str:
    """A value with its interval: `0.732 [0.610, 0.826]`."""
    return f"{_share(told.value)} [{_share(told.low)}, {_share(told.high)}]"


def signed(told: Figure) -> str:
    """A difference with its interval."""
    return f"{told.value:+.3f} [{told.low:+.3f}, {told.high:+.3f}]"


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print a table, its columns as wide as they must be."""
    cells = [list(map(shown, row)) for row in [heads, *rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    for row in cells:
        print(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_pairs(told: Pairwise, scores: str) -> None:
    _facts(f"{scores} on {told.pairs:,} pairs", _of_pairs(told))
    _facts("sigmoid of the margin as a probability", _of_calibration(told))
    rows = [
        (f"{it.low:.2f}-{it.high:.2f}", f"{it.pairs:,}", _share(it.confidence), _share(it.accuracy), _bar(it.accuracy))
        for it in told.calibration.table
    ]
    _table("reliability", ("CONFIDENCE", "PAIRS", "MEAN", "RIGHT", ""), rows)
    counts = told.margins.counts
    edges = zip(told.margins.edges, told.margins.edges[1:], strict=False)
    rows = [
        (f"{low:+.2f} to {high:+.2f}", f"{count:,}", _bar(count / max(counts)))
        for (low, high), count in zip(edges, counts, strict=True)
    ]
    _table("margins", ("MARGIN", "PAIRS", ""), rows)
    _facts("length, in characters", _of_lengths(told.lengths))
    for key, some in told.by.items():
        _table(
            f"by {key}",
            ("NAME", "PAIRS", "PROMPTS", "ACCURACY", "HALF CREDIT", "NLL", "ECE", "LONGER WINS"),
            _of_categories(some, told.worst[key]),
        )
    if told.sections:
        _show_sections(told.sections)


def _of_pairs(told: Pairwise) -> Facts:
    yield "accuracy", f"{figure(told.accuracy)}, ties wrong"
    yield "", f"{figure(told.half_credit)}, ties half right"
    yield "ties", f"{told.ties:,} of {told.pairs - told.undecided:,} pairs scored alike"
    if told.undecided:
        yield (
            "undecided",
            f"{told.undecided:,} of {told.pairs:,} pairs have half of the votes each and count in no accuracy",
        )
    if told.votes:
        yield "single votes", f"{figure(told.votes.accuracy)} agree"
        yield "", f"{figure(told.votes.ceiling)} would at most; that is {told.votes.of_ceiling:.1%} of it"
    if told.rankings:
        some = told.rankings
        yield "best first", f"{figure(some.top)} of {some.prompts:,} prompts, by chance {_share(some.random)}"
        if some.tau:
            yield "tau-b", figure(some.tau)


def _of_calibration(told: Pairwise) -> Facts:
    it = told.calibration
    yield "NLL", f"{figure(it.nll)}{', against shares of votes' if it.votes else ''}; a coin has {math.log(2):.3f}"
    yield "ECE", f"{_share(it.ece)} in bins of equal width, {_share(it.ece_mass)} of equal size"
    if it.temperature is None:
        yield "temperature", "none: no positive one is better than a coin"
    else:
        best = f"{it.temperature:.3g}" if it.temperature else "0: all are right, the surer the better"
        yield "temperature", best
        yield "", f"NLL {_share(it.nll_at)}, ECE {_share(it.ece_at)} with it, fitted to these very pairs"
    some = told.margins
    yield "margin", f"{some.mean:+.3f} in the mean, deviation {some.deviation:.3f}; {some.small:.1%} below 0.1 in size"
    yield "scores", f"{some.better:+.3f} of better completions, {some.worse:+.3f} of worse ones (means)"


def _of_lengths(told: Lengths) -> Facts:
    yield "longer wins", f"{figure(told.longer_wins)}: what preferring the longer one would get"
    if told.when_longer:
        yield "better longer", f"{figure(told.when_longer)} in {told.longer:,} pairs"
    if told.when_shorter:
        yield "better shorter", f"{figure(told.when_shorter)} in {told.shorter:,} pairs"
    if told.balanced is not None:
        yield "both alike", f"{_share(told.balanced)}, the mean of the two"
    yield "equal length", f"{figure(told.controlled)} by a logistic regression on length, slope {told.slope:+.2f}"
    if told.correlation is not None:
        yield "correlation", f"{told.correlation:+.3f} of margin with difference in length"


def _of_members(told: Members) -> Facts:
    some = sorted(it.value for it in told.accuracy)
    yield "accuracy", f"{_share(some[0])} to {_share(some[-1])}, each by itself, ties half right"
    yield "disagreement", f"{told.disagreement:.1%} of pairs are not judged alike by all"
    if told.correlation is not None:
        yield "correlation", f"{told.correlation:+.3f} of the margins of two, in the mean"
    if told.auroc is not None:
        yield (
            "wrong apart",
            f"{_share(told.auroc)} AUROC of how far margins are apart, for pairs that all together get wrong",
        )


def _of_categories(some: Sequence[Category], least: Figure) -> list[tuple[str, ...]]:
    rows = [
        (
            it.name,
            f"{it.pairs:,}",
            f"{it.prompts:,}",
            figure(it.accuracy),
            _share(it.half_credit),
            _share(it.nll),
            _share(it.ece),
            _share(it.longer_wins),
        )
        for it in some
    ]
    if len(some) > 1:
        worst = next(it for it in some if it.name == _worst(some))
        rows.append(("worst: " + worst.name, "", "", _share(worst.accuracy.value), figure(least), "", "", ""))
    return rows


def _worst(some: Sequence[Category]) -> str:
    return min(some, key=lambda it: it.half_credit).name


def _show_sections(told: Sections) -> None:
    rows = [(it.name, _share(it.accuracy), f"{len(it.weights)}") for it in told.sections]
    _table(
        f"sections, weighted: {told.weighting}",
        ("SECTION", "ACCURACY", "CATEGORIES"),
        [*rows, ("mean", _share(told.mean), "")],
    )
    if told.lacking:
        print(f"  {len(told.lacking)} categories of it are not in this file: {told.lacking[0]} ...")


def _of_labels(told: Labelled) -> Facts:
    yield "AUROC", f"{figure(told.auroc)} over all completions"
    if told.within:
        yield (
            "",
            f"{figure(told.within)} within a prompt, the mean of the {told.mixed:,} that have right and wrong ones",
        )
    yield "precision", f"{_share(told.precision)} in the mean; blindly {_share(told.right / told.completions)}"


def _of_steps(told: Steps) -> Facts:
    if told.unknown:
        yield "left out", f"{told.unknown:,} solutions whose labels do not reach the first wrong step"
    yield (
        "solutions",
        f"{told.erroneous:,} with a wrong step, {told.solutions - told.erroneous:,} without; {told.steps:,} steps",
    )
    if told.auroc is not None:
        yield "AUROC", f"{_share(told.auroc)} of steps"
    yield from _first_errors("F1", told.at, "")
    yield from _first_errors("F1 at best", told.best, ", chosen on these very solutions, so too good")
    if told.held is not None:
        yield "F1 held out", f"{figure(told.held)}: for each tenth of the prompts the threshold from the others"
    yield "floor", f"{_share(told.floor)} for flagging each step with probability {told.rate:.2f}, the best there is"


def _first_errors(what: str, told: FirstErrors, chosen: str) -> Facts:
    yield what, f"{figure(told.f1)} with the threshold {told.threshold:.3g}{chosen}"
    yield "", f"{figure(told.erroneous)} of those with a wrong step, {figure(told.correct)} of those without"


def _facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    print(f"\n{title}")
    for what, said in facts:
        print(f"  {what:<16}{said}")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}")
    columns(heads, rows, "  ")


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _bar(share: float) -> str:
    return "#" * round(share * _BAR)

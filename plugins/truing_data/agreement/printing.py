"""A report for people: what it comes to first, then tables of what can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from truing.errors import shown
from truing_data.agreement.shapes import Agreement, Annotator, Bias, Model, Position, Report
from truing_data.agreement.texts import RUN, Overlap, Share

SHOWN = 10
"""Rows of a table that are shown; --json has all."""
FEW = 10
"""Votes below which nobody is called one of the worst."""


def show(report: Report) -> None:
    """Print all of it."""
    unusable = f", {report.unusable:,} of them unusable" if report.unusable else ""
    print(f"{report.file}: {report.rows:,} rows{unusable}")
    _facts(_of_file(report))
    _section("texts", _of_texts(report))
    if report.categories:
        _cut("categories", *_of_categories(report))
    if report.agreement:
        told = report.agreement
        _section(_votes(told), _of_agreement(told))
        if told.kappas:
            rows = [
                (pair.one, pair.other, f"{pair.items:,}", _number(pair.observed), _number(pair.cohen))
                for pair in told.kappas
            ]
            _cut("pairs of annotators", ("ONE", "OTHER", "ITEMS", "ALIKE", "COHEN"), rows)
        if told.model:
            _section("model of annotators (Dawid and Skene)", _of_model(told.model))
            truths = ", ".join(told.labels)
            title = f"annotators of {FEW} votes or more, the worst first; how often each says it where true is {truths}"
            _cut(title, *_of_annotators(told.model.annotators))
    if report.position:
        _section("position", _of_position(report.position))
    if report.overlap:
        _section(f"in {report.overlap.path}, {report.overlap.rows:,} rows, also here", _of_overlap(report.overlap))
    if report.warnings:
        print("\nmind")
        for warning in report.warnings:
            print(f"  {warning}")


def _of_file(report: Report) -> Iterator[tuple[str, str]]:
    for guess in report.guesses:
        yield "guessed", guess
    if report.comparisons != report.rows - report.unusable:
        yield "pairs", f"{report.comparisons:,}"
    if report.ties is not None:
        yield "ties", f"{report.ties:,}"
    if report.strength:
        yield "strength", f"{report.strength.mean:.3g} in the mean, whichever is better"
        if report.strength.values:
            yield "", _counts(report.strength.values)


def _of_texts(report: Report) -> Iterator[tuple[str, str]]:
    told = report.copies
    if told.prompts:
        again = f", one of them {told.most:,} times" if told.most > 1 else ""
        yield "prompts", f"{told.prompts:,} different{again}"
    if report.lengths:
        lengths = report.lengths
        alike = f"; of equal length: {lengths.alike:,}" if lengths.alike else ""
        yield "longer wins", _share(lengths.longer_wins) + alike
        yield "characters", f"{lengths.better:,.0f} in better answers, {lengths.worse:,.0f} in worse ones (means)"
        yield "", f"the better one has {lengths.median_difference:+,.0f} (median)"
    if told.empty:
        yield "empty texts", f"in {told.empty:,}"
    alike = {"equal": told.equal, "equal but for case and signs": told.alike}
    if any(alike.values()):
        yield "answers", ", ".join(f"{what} in {count:,}" for what, count in alike.items() if count)
    again = {"exactly": told.exact, "turned round": told.turned, "and contradicted": told.contradictions}
    if any(again.values()):
        yield "repeated", ", ".join(f"{what} {count:,}" for what, count in again.items() if count)


def _of_categories(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Ties and lengths only where there are any."""
    heads = (
        "COLUMN",
        "VALUE",
        "ROWS",
        *(("TIES",) if report.ties else ()),
        *(("LONGER WINS",) if report.lengths else ()),
    )
    rows = [
        (
            one.column,
            one.value,
            f"{one.rows:,}",
            *((f"{one.ties:,}",) if report.ties else ()),
            *((_share(one.longer_wins) if one.longer_wins else "",) if report.lengths else ()),
        )
        for one in report.categories
    ]
    return heads, rows


def _of_agreement(told: Agreement) -> Iterator[tuple[str, str]]:
    yield "votes", ", ".join(f"{votes} on {items:,} items" for votes, items in told.per_item.items())
    yield "labels", _counts(told.labels)
    if told.unanimous.of:
        yield "unanimous", _share(told.unanimous)
    left = f", {told.fleiss.left_out:,} items with other numbers left out" if told.fleiss.left_out else ""
    if told.fleiss.votes > 1:
        yield "Fleiss", f"{_number(told.fleiss.value)} ({told.fleiss.items:,} items of {told.fleiss.votes} votes{left})"
    if told.nominal is not None:
        ordinal = f", {_number(told.ordinal)} with labels in order" if told.ordinal is not None else ""
        yield "Krippendorff", _number(told.nominal) + ordinal
    if told.rest.right.of:
        tied = f"; {told.rest.tied:,} not judged, as the others are tied" if told.rest.tied else ""
        yield "ceiling", f"{_share(told.rest.right)} of votes are as the majority of the others{tied}"
    if told.decided_rest and told.decided_rest.right.of:
        yield (
            "",
            f"{_share(told.decided_rest.right)} if votes for a tie are left out; {told.decided_rest.tied:,} not judged",
        )


def _of_model(model: Model) -> Iterator[tuple[str, str]]:
    ended = "" if model.converged else ", not converged"
    yield (
        "fitted",
        f"{model.rounds} rounds{ended}; pseudo-counts {model.right:g} right, {model.wrong:g} for each way to err",
    )
    yield "true labels", ", ".join(f"{label} {share:.1%}" for label, share in model.frequency.items())
    yield "a vote", f"is right with {model.accuracy:.1%}"
    yield "uncertain", f"{_share(model.uncertain)} of items have no label it believes with 90%"
    if model.majority.of:
        yield "majority", f"{_share(model.majority)} of clear majorities are what it believes"


def _of_annotators(annotators: Sequence[Annotator]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    enough = sorted((one for one in annotators if one.votes >= FEW), key=lambda one: one.accuracy)
    labels = list(annotators[0].confusion)
    heads = ("ANNOTATOR", "VOTES", "RIGHT", "AS THE OTHERS", *(f"SAYS {label}".upper() for label in labels))
    rows = [
        (
            one.name,
            f"{one.votes:,}",
            f"{one.accuracy:.1%}",
            f"{one.rest.share:.1%}" if one.rest and one.rest.share is not None else "",
            *(" ".join(f"{one.confusion[true][said]:.2f}" for true in labels) for said in labels),
        )
        for one in enough
    ]
    return heads, rows


def _of_position(told: Position) -> Iterator[tuple[str, str]]:
    if told.assumed:
        yield "assumed", "the first column was shown first; --order names a column that says so"
    yield "first wins", f"{_share(told.first)} of decided votes"
    if told.overall:
        yield "log-odds", _bias(told.overall)
    if told.equal_length:
        yield "", f"{_bias(told.equal_length)} between answers of equal length"
    if told.swapped:
        same = f"; the same answer wins in {_share(told.consistent)}" if told.consistent else ""
        yield "both ways", f"shown in both orders: {told.swapped:,}{same}"
    if told.paired:
        yield "", f"{_bias(told.paired)} log-odds from those, whichever is better"


def _of_overlap(told: Overlap) -> Iterator[tuple[str, str]]:
    shares = {
        "prompts": told.prompts,
        "first turns": told.openings,
        f"{RUN} words": told.runs,
        "answers": told.answers,
        "pairs": told.pairs,
    }
    for what, one in shares.items():
        if one:
            yield what, f"{one.share:.1%}  {one.count:,} of {one.of:,}"


def _section(title: str, facts: Iterator[tuple[str, str]]) -> None:
    some = list(facts)
    if some:
        print(f"\n{title}")
        _facts(some)


def _facts(facts: Iterable[tuple[str, str]]) -> None:
    for what, told in facts:
        print(f"  {what:<14}{shown(told)}")


def _votes(told: Agreement) -> str:
    people = f" by {told.annotators:,} annotators" if told.annotators > 1 else ""
    return f"{told.votes:,} votes on {told.items:,} items{people}"


def _cut(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of the first rows, in columns."""
    if not rows:
        return
    more = f", {SHOWN} of {len(rows):,}" if len(rows) > SHOWN else ""
    print(f"\n{title}{more}")
    few = [heads, *(list(map(shown, row)) for row in rows[:SHOWN])]
    widths = [max(len(row[at]) for row in few) for at in range(len(heads))]
    for row in few:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _share(one: Share) -> str:
    if one.share is None or one.low is None or one.high is None:
        return "none"
    return f"{one.share:.1%} [{one.low:.1%}, {one.high:.1%}]"


def _bias(bias: Bias) -> str:
    return f"{bias.value:+.3f} [{bias.low:+.3f}, {bias.high:+.3f}]"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {count:,}" for label, count in counts.items())


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"

"""All that should be known of comparisons before a model learns from them, as one value for people and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from truing_data.agreement.coefficients import (
    against_the_rest,
    cohen,
    fleiss,
    krippendorff,
    observed,
    unanimous,
)
from truing_data.agreement.dawid_skene import Annotated, dawid_skene
from truing_data.agreement.position import Estimate, intercept, swapped
from truing_data.agreement.reading import Comparison, Comparisons
from truing_data.agreement.shapes import (
    Agreement,
    Annotator,
    Bias,
    Category,
    Fleiss,
    Kappa,
    Model,
    Position,
    Report,
    Rest,
    Strength,
)
from truing_data.agreement.table import Votes, votes_of
from truing_data.agreement.texts import copies, lengths, overlap, share

SHARED = 10
"""Items that two annotators must share before their kappa says anything."""
LIKERT = 21
"""Different strengths up to which they are points of a scale, each of which is counted."""


def reported(here: Comparisons, other: Comparisons | None = None, *, right: float = 2.0, wrong: float = 1.0) -> Report:
    """The report of a file. other: one that should share nothing with it. right, wrong: priors of `dawid_skene`."""
    found = here.found
    texts = not names(found)
    told = list(here.told)
    if not texts:
        told.append("answers without a space are taken for names of texts, so their lengths say nothing")
    voted = any(here.votes)
    report = Report(
        here.origin,
        here.rows,
        here.unusable,
        len(found),
        told,
        sum(one.winner == "tie" for one in found) if any(one.winner for one in found) else None,
        strength([one.strength for one in found if one.strength is not None]),
        lengths(found) if texts else None,
        copies(found),
        categories(here, texts),
        agreement(votes_of(here.votes, here.labels), here, right, wrong) if voted else None,
        position(found, texts),
        overlap(found, other.found, other.origin, other.rows) if other else None,
        [],
    )
    report.warnings = list(warnings(report))
    return report


def names(found: Sequence[Comparison]) -> bool:
    """Are the answers names of texts rather than texts? No text of some length has no space in it."""
    answers = {text for one in found for text in (one.first, one.second) if text}
    return bool(answers) and 2 * len(answers) < len(found) and not any(" " in text for text in answers)


def strength(values: Sequence[float]) -> Strength | None:
    """By how much answers are better, if that is said."""
    if not values:
        return None
    counts = {f"{value:g}": rows for value, rows in sorted(Counter(values).items())}
    return Strength(sum(map(abs, values)) / len(values), counts if len(counts) <= LIKERT else {})


def categories(here: Comparisons, texts: bool) -> list[Category]:
    """The rows by each value of each category column, the frequent values first."""
    told: list[Category] = []
    for at, column in enumerate(here.columns.category):
        for value, rows in Counter(one.categories[at] for one in here.found).most_common():
            some = [one for one in here.found if one.categories[at] == value]
            longer = lengths(some) if texts else None
            ties = sum(one.winner == "tie" for one in some)
            told.append(Category(column, value, rows, ties, longer.longer_wins if longer else None))
    return told


def agreement(votes: Votes, here: Comparisons, right: float, wrong: float) -> Agreement:
    """What votes say of each other."""
    counts = votes.counts()
    per_item: Counter[int] = Counter(counts.sum(1)[counts.sum(1) > 0].tolist())
    usual = max(per_item, key=lambda number: (per_item[number], number))
    same = counts[counts.sum(1) == usual]
    decided = "tie" in here.labels and here.columns.first is not None
    repeated = bool((counts.sum(1) > 1).any())
    return Agreement(
        sum(per_item.values()),
        len(votes.item),
        len(votes.annotators),
        dict(sorted(per_item.items())),
        dict(zip(votes.labels, counts.sum(0).tolist(), strict=True)),
        share(*unanimous(counts)),
        kappas(votes),
        Fleiss(fleiss(same), len(same), usual, sum(per_item.values()) - len(same)),
        krippendorff(counts, "nominal"),
        krippendorff(counts, "ordinal") if here.ordered and len(votes.labels) > 2 else None,
        _rest(votes),
        _rest(votes.only(["first", "second"])) if decided else None,
        _model(votes, dawid_skene(votes, right=right, wrong=wrong), right, wrong) if repeated else None,
    )


def kappas(votes: Votes) -> list[Kappa]:
    """Every two annotators who share enough items, those who share the most first."""
    order = np.argsort(votes.annotator, kind="stable")
    ends = np.cumsum(np.bincount(votes.annotator, minlength=len(votes.annotators)))
    of = [dict(zip(votes.item[some], votes.label[some], strict=True)) for some in np.split(order, ends[:-1])]
    per_item: dict[int, list[int]] = {}
    for item, annotator in zip(votes.item.tolist(), votes.annotator.tolist(), strict=True):
        per_item.setdefault(item, []).append(annotator)
    met = Counter(
        (min(one, other), max(one, other))
        for some in per_item.values()
        for at, one in enumerate(some)
        for other in some[:at]
    )
    told: list[Kappa] = []
    for (one, other), items in met.most_common():
        if items < SHARED:
            break
        both = sorted(of[one].keys() & of[other].keys())
        first, second = (np.array([of[who][item] for item in both]) for who in (one, other))
        value = cohen(first, second, len(votes.labels))
        told.append(Kappa(votes.annotators[one], votes.annotators[other], items, observed(first, second), value))
    return told


def position(found: Sequence[Comparison], texts: bool) -> Position | None:
    """What being shown first does; None where no two answers were shown, or which was first is known of none."""
    assumed = not any(one.shown for one in found)
    shown = [(one, one.shown or 1, _for_first(one, assumed)) for one in found if one.first is not None]
    shown = [(one, side, votes) for one, side, votes in shown if votes and sum(votes) and (assumed or one.shown)]
    if not shown:
        return None
    won = np.array([votes[0] if side > 0 else votes[1] for _, side, votes in shown], float)
    cast = np.array([sum(votes) for _, _, votes in shown], float)
    longer = np.array([side * (len(one.first or "") - len(one.second or "")) for one, side, _ in shown], float)
    tables = _both_orders(shown)
    agreeing = [(table[:, 0] - table[:, 1]).prod() > 0 for table in tables if (table[:, 0] != table[:, 1]).all()]
    return Position(
        assumed,
        share(won.sum(), cast.sum()),
        _bias(intercept(won, cast)),
        _bias(intercept(won, cast, longer)) if texts else None,
        len(tables),
        share(sum(agreeing), len(agreeing)) if agreeing else None,
        _bias(swapped(np.array(tables))) if tables else None,
    )


def warnings(report: Report) -> list[str]:
    """What should be looked at before a model learns from this."""
    told: list[str] = []
    if report.copies.empty:
        told.append(f"pairs with an empty text, which a source refuses: {report.copies.empty:,}")
    if report.copies.equal:
        told.append(f"pairs of equal answers, which a source refuses: {report.copies.equal:,}")
    if report.copies.contradictions:
        told.append(f"rows that contradict an earlier one on the same two answers: {report.copies.contradictions:,}")
    if report.lengths and (longer := report.lengths.longer_wins).low is not None and longer.high is not None:
        if longer.low > 0.5:
            told.append(f"a model that only prefers the longer answer is right {longer.share:.1%} of the time")
        if longer.high < 0.5:
            told.append(
                f"a model that only prefers the shorter answer is right {1 - (longer.share or 0):.1%} of the time"
            )
    if report.agreement and report.agreement.model:
        chance = 1 / len(report.agreement.labels)
        poor = sum(one.accuracy < chance for one in report.agreement.model.annotators)
        if poor:
            told.append(f"annotators who are right less often than chance, {chance:.0%}, by the model: {poor:,}")
    if report.position:
        told += _of_position(report.position)
    if report.overlap and report.overlap.prompts and report.overlap.prompts.count:
        told.append(f"prompts of {report.overlap.path} that are in this file as well: {report.overlap.prompts.count:,}")
    return told


def _of_position(position: Position) -> Iterator[str]:
    """A bias that is more than chance; of pairs in both orders if there are any, which need no assumption."""
    bias = position.paired or position.overall
    if bias and not bias.low <= 0 <= bias.high:
        favoured = "first" if bias.value > 0 else "second"
        unless = "" if position.paired else ", unless the order was not drawn by lot"
        yield f"being shown {favoured} helps: log-odds {bias.value:+.3f}{unless}"


def _rest(votes: Votes) -> Rest:
    judged = against_the_rest(votes)
    return Rest(share(judged.right.sum(), len(judged.right)), judged.tied, judged.alone)


def _model(votes: Votes, fitted: Annotated, right: float, wrong: float) -> Model:
    counts = votes.counts()
    voted = counts.sum(1) > 0
    most = counts.max(1, keepdims=True)
    clear = voted & ((counts == most).sum(1) == 1)
    same = (fitted.posterior.argmax(1) == counts.argmax(1))[clear]
    return Model(
        dict(zip(votes.labels, fitted.frequency.tolist(), strict=True)),
        float(fitted.accuracy()[votes.annotator].mean()),
        share((fitted.posterior.max(1)[voted] < 0.9).sum(), voted.sum()),
        share(same.sum(), len(same)),
        len(fitted.objective),
        fitted.converged,
        right,
        wrong,
        _annotators(votes, fitted),
    )


def _annotators(votes: Votes, fitted: Annotated) -> list[Annotator]:
    """Every annotator, those with most votes first."""
    judged, number = against_the_rest(votes), len(votes.annotators)
    cast = np.bincount(votes.annotator, minlength=number)
    of = np.bincount(votes.annotator[judged.vote], minlength=number)
    right = np.bincount(votes.annotator[judged.vote], judged.right, minlength=number)
    accuracy = fitted.accuracy()
    told: list[Annotator] = []
    for at in map(int, np.argsort(-cast, kind="stable")):
        confusion = {
            true: dict(zip(votes.labels, said, strict=True))
            for true, said in zip(votes.labels, fitted.confusion[at].tolist(), strict=True)
        }
        rest = share(right[at], of[at]) if of[at] else None
        told.append(Annotator(votes.annotators[at], int(cast[at]), float(accuracy[at]), rest, confusion))
    return told


def _for_first(one: Comparison, assumed: bool) -> tuple[int, int] | None:
    """Decided votes for the first and for the second column; a verdict without votes is one, if it has an order."""
    if one.votes:
        sides = Counter(side for _, side in one.votes)
        return sides["first"], sides["second"]
    if assumed or one.winner is None:
        return None
    return int(one.winner == "first"), int(one.winner == "second")


def _both_orders(shown: Sequence[tuple[Comparison, int, tuple[int, int]]]) -> list[np.ndarray]:
    """[order, winner] tables of the answers that were shown in both orders; the alphabetically first answer is A."""
    tables: dict[tuple[str | None, str, str], np.ndarray] = {}
    for one, side, votes in shown:
        one_text, other_text = one.first or "", one.second or ""
        if one_text == other_text:
            continue
        ahead = one_text < other_text
        key = (one.prompt, min(one_text, other_text), max(one_text, other_text))
        table = tables.setdefault(key, np.zeros((2, 2)))
        table[0 if ahead == (side > 0) else 1] += votes if ahead else votes[::-1]
    return [table for table in tables.values() if table.sum(1).all()]


def _bias(estimate: Estimate | None) -> Bias | None:
    return Bias(estimate.value, *estimate.interval) if estimate else None

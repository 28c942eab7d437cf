"""What the scores of a file are worth: which reports it can give, and how two files compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from truing.errors import Problem, UserError
from truing_evaluate.intervals import DRAWS, Array, draws, ratio, resampled, sums_of
from truing_evaluate.labelled import labelled
from truing_evaluate.lengths import credit
from truing_evaluate.members import FIELD, members
from truing_evaluate.pairs import REWARDBENCH, pairs_of, pairwise
from truing_evaluate.rows import BadValue, Row, Scored, numbered, numbers
from truing_evaluate.shapes import Difference, Recovered, Report, Steps
from truing_evaluate.solutions import is_known, solutions_of
from truing_evaluate.steps import steps

INTERVALS = f"95 %; accuracies: Wilson over prompts; others: bootstrap over prompts, {DRAWS:,} draws"


def report(data: Scored, scores: str, by: Sequence[str], sections: str | None, threshold: float) -> Report:
    """Everything that a file has the fields for. Raises UserError if that is nothing, or a row is wrong."""
    comparable = data.has(scores) and (data.has("pairs") or data.has("rank"))
    right = data.has(scores, "label")
    stepped = data.has("step_scores", "step_labels")
    if not (comparable or right or stepped):
        what = f"nothing to measure {scores} by" if data.has(scores) else f'no row has "{scores}"'
        mend = f"rows have {', '.join(data.names())}; looked at are {scores} with pairs, rank or label, "
        raise UserError(Problem(data.origin, what, f"{mend}and step_scores with step_labels"))
    if sections and sections != REWARDBENCH and not by:
        raise UserError(Problem("--sections", "sections are made of categories", "name the key of those with --by"))
    return Report(
        file=data.origin,
        prompts=len(data.rows),
        scores=scores,
        intervals=INTERVALS,
        pairs=pairwise(data, scores, _keys(data, by, sections), sections) if comparable else None,
        members=members(data, scores) if comparable and data.has(FIELD) else None,
        labels=labelled(*_labels(data, scores)) if right else None,
        steps=_steps(data, threshold) if stepped else None,
    )


def difference(first: Scored, other: Scored, scores: str) -> Difference | None:
    """How much more often a file is right than the first, on the pairs that both have: those of equal texts under the
    same id. None without such pairs."""
    one, two = _rights(first, scores), _rights(other, scores)
    both = sorted(one.keys() & two.keys())
    if not both:
        return None
    prompts = {name: at for at, name in enumerate(dict.fromkeys(key[0] for key in both))}
    groups = np.array([prompts[key[0]] for key in both])
    gains = np.array([two[key] - one[key] for key in both])
    sums = sums_of(np.stack([gains, np.ones_like(gains)], 1), groups, len(prompts))
    return Difference(
        file=other.origin,
        prompts=len(prompts),
        pairs=len(both),
        turned=int((gains != 0).sum()),
        difference=resampled(sums, ratio),
    )


def recovered(weak: Scored, some: Scored, ceiling: Scored, scores: str) -> Recovered:
    """How much of the gap between two files a third recovers. Raises UserError where they have no pair in common."""
    rights = [_rights(data, scores) for data in (weak, some, ceiling)]
    every = sorted(set.intersection(*(set(each) for each in rights)))
    if not every:
        what = f"it has no pair in common with {weak.origin} and {ceiling.origin}"
        raise UserError(Problem(some.origin, what, "score the same pairs with all of them"))
    prompts = {name: at for at, name in enumerate(dict.fromkeys(key[0] for key in every))}
    groups = np.array([prompts[key[0]] for key in every])
    values = np.array([[*(each[key] for each in rights), 1.0] for key in every])
    sums = sums_of(values, groups, len(prompts))

    def share(drawn: Array) -> Array:
        gap = drawn[:, 2] - drawn[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(gap > 0, (drawn[:, 1] - drawn[:, 0]) / gap, np.nan)

    means = values.mean(0)
    return Recovered(
        file=some.origin,
        prompts=len(prompts),
        pairs=len(every),
        weak=float(means[0]),
        own=float(means[1]),
        ceiling=float(means[2]),
        ahead=resampled(np.stack([sums[:, 1] - sums[:, 0], sums[:, 3]], 1), ratio),
        recovered=resampled(sums, share),
        without=float(np.mean(np.concatenate([np.isnan(share(counts @ sums)) for counts in draws(len(sums))]))),
    )


def _rights(data: Scored, scores: str) -> dict[tuple[str, str, str], float]:
    """Whether each decided pair is right, by its prompt and texts."""
    pairs = pairs_of(data, scores, [])
    names = [name for name, _ in numbered(data.rows)]
    decided = np.ones(len(pairs.group), dtype=bool) if pairs.votes is None else pairs.votes != 0.5
    rights = credit(pairs.margins)
    return {(names[pairs.group[at]], *pairs.texts[at]): float(rights[at]) for at in np.flatnonzero(decided).tolist()}


def _keys(data: Scored, by: Sequence[str], sections: str | None) -> list[str]:
    """What accuracy is told by: what was asked for, the subsets of RewardBench, and the groups of annotators."""
    subset = ["subset"] if sections == REWARDBENCH and not by else []
    strata = ["stratum"] if data.has("stratum") else []
    keys: list[str] = [*by, *subset, *strata]
    return list(dict.fromkeys(keys))


def _labels(data: Scored, scores: str) -> tuple[list[Array], list[Array]]:
    def both(row: Row) -> tuple[Array, Array]:
        labels = np.array(numbers(row, "label"))
        if odd := [value for value in labels if value not in (0, 1)]:
            raise BadValue(f'"label" has {odd[0]:g}', "1 is a right completion, 0 a wrong one")
        return np.array(numbers(row, scores)), labels

    found = data.each(both)
    return [some for some, _ in found], [labels for _, labels in found]


def _steps(data: Scored, threshold: float) -> Steps:
    """Of the solutions of which it is known which step is the first wrong one, or that none is."""
    group = {row.where: at for at, row in enumerate(data.rows)}
    every = [some for row in data.each(lambda row: solutions_of(row, group[row.where])) for some in row]
    known = [some for some in every if is_known(some)]
    if not known:
        raise UserError(Problem(data.origin, "of no solution the step_labels go as far as a wrong step, or to the end"))
    return steps(known, len(every) - len(known), threshold)

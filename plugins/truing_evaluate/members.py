"""An ensemble on pairs: how different its members are, and whether it is wrong where they are apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from truing_evaluate.intervals import Array, share_of
from truing_evaluate.labelled import auroc
from truing_evaluate.lengths import correlation, credit
from truing_evaluate.pairs import pairs_of
from truing_evaluate.rows import BadValue, Row, Scored, field, number
from truing_evaluate.shapes import Members

FIELD = "member_scores"


def members(data: Scored, scores: str) -> Members:
    """The report. scores: of the ensemble. Raises UserError for rows whose members are not the same in number."""
    found = data.each(_scores)
    count = len(found[0][0])
    whole = pairs_of(data, scores, [])
    apart = [pairs_of(_of_member(data, found, at), FIELD, []) for at in range(count)]
    decided = np.ones(len(whole.group), dtype=bool) if whole.votes is None else whole.votes != 0.5
    margins = np.stack([pairs.margins for pairs in apart], 1)[decided]
    right = credit(margins)
    wrong = 1.0 - (credit(whole.margins[decided]) == 1)
    together = [correlation(margins[:, one], margins[:, other]) for one, other in combinations(range(count), 2)]
    known = [value for value in together if value is not None]
    sign = auroc(margins.std(1), wrong)
    return Members(
        members=count,
        accuracy=[share_of(right[:, at], whole.group[decided]) for at in range(count)],
        correlation=float(np.mean(known)) if known else None,
        disagreement=float((right.min(1) != right.max(1)).mean()),
        auroc=sign if np.isfinite(sign) else None,
    )


def _scores(row: Row) -> Array:
    """Those of all members, [completion, member]. Raises BadValue."""
    said = field(row, FIELD)
    if not isinstance(said, list) or len(said) != len(row.texts):
        raise BadValue(f'"{FIELD}" is no list as long as "completions"')
    sizes = {len(entry) if isinstance(entry, list) else 0 for entry in said}
    if len(sizes) != 1 or min(sizes) < 2:
        raise BadValue(f'"{FIELD}" does not have two numbers or more, and as many, of each completion')
    return np.array([[number(value, f'"{FIELD}"') for value in entry] for entry in said])


def _of_member(data: Scored, found: list[Array], at: int) -> Scored:
    """The file as one member scores it."""
    rows = [
        row._replace(values={**row.values, FIELD: some[:, at].tolist()})
        for row, some in zip(data.rows, found, strict=True)
    ]
    return data._replace(rows=rows)

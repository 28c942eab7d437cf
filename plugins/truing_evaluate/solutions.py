"""Solutions in steps, as rows have them: for each completion a list of scores and one of labels, of the steps that
are judged.

`step_index` says which steps those are and `steps` how many there are; without them, every step is judged from the
first on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from truing_evaluate.rows import BadValue, Row, field, number
from truing_evaluate.steps import NONE, Solution, first_error


def solutions_of(row: Row, group: int) -> list[Solution]:
    """The solutions of a row; what is not said of a step is nan. group: its number among the prompts. Raises
    BadValue."""
    scores, labels = _by_completion(row, "step_scores"), _by_completion(row, "step_labels")
    places = _by_completion(row, "step_index") if "step_index" in row.values else [range(len(some)) for some in scores]
    counts = [len(some) for some in (_by_completion(row, "steps") if "steps" in row.values else scores)]
    found: list[Solution] = []
    for at, (given, said, where, count) in enumerate(zip(scores, labels, places, counts, strict=True), 1):
        if len(said) > len(given) or len(where) != len(given):
            what = f"completion {at} has {len(given)} step_scores for {len(said)} step_labels"
            raise BadValue(what, "they are of the same steps; steps behind the last label may have none")
        if len(given) > count or not all(type(place) is int and 0 <= place < count for place in where):
            raise BadValue(f"completion {at} has scores of steps that are not among its {count} steps")
        if None in given:
            raise BadValue(f"completion {at} has null among its step_scores")
        if given:
            found.append(Solution(row.id, group, *(_placed(some, where, count, at) for some in (given, said))))
    return found


def is_known(some: Solution) -> bool:
    """Whether the labels go without a gap to the first wrong step, or to the end if there is none."""
    missing = np.flatnonzero(np.isnan(some.labels))
    end = first_error(some.labels)
    return not len(missing) or NONE < end < missing[0]


def _placed(values: Sequence[Any], places: Sequence[int], count: int, completion: int) -> Any:
    found = np.full(count, np.nan)
    for value, place in zip(values, places, strict=False):
        if value is not None:
            found[place] = number(value, f"what completion {completion} has for step {place + 1}")
    return found


def _by_completion(row: Row, name: str) -> list[list[Any]]:
    """A list for each completion; of a row with one completion its steps may stand there by themselves."""
    value = field(row, name)
    if isinstance(value, list) and len(row.texts) == 1 and not any(isinstance(some, list) for some in value):
        value = [value]
    if not isinstance(value, list) or len(value) != len(row.texts) or not all(isinstance(some, list) for some in value):
        raise BadValue(f'"{name}" is no list of steps for each of the {len(row.texts)} completions')
    return value

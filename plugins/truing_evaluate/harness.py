"""Capability as lm-eval measured it: the samples it logs, `samples_TASK_TIME.jsonl`, with a row for each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from truing.errors import Problem, UserError
from truing_evaluate.measures import Items


def logged(path: Path) -> Items | None:
    """What each question adds to capability: its first metric, by the question's hash; of several filters the first
    counts. None for a file of another kind. Raises UserError for a metric that is no share."""
    if not (path.is_file() and path.name.startswith("samples_")):
        return None
    found: Items = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            metric, question = row["metrics"][0], row["doc_hash"]
            share = float(row[metric])
        except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError):
            what = "not a sample as lm-eval logs it: no doc_hash, or no metric with a number"
            raise UserError(Problem(f"{path}:{number}", what, "write them with --log_samples")) from None
        if not 0 <= share <= 1:
            mend = "capability is a share of right answers: acc, exact_match, pass@1"
            raise UserError(Problem(f"{path}:{number}", f"its first metric, {metric}, is {share:g}", mend))
        found.setdefault(question, (share, 1.0))
    return found

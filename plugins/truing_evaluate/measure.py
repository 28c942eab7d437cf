"""`truing measure`: its options, the report, and the table that is printed and sent to MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from truing.errors import Problem, UserError
from truing_evaluate.commands import installed
from truing_reports.telling import Json, Mlflow, as_json, sent

if TYPE_CHECKING:
    from truing_evaluate.measures import Sums
    from truing_evaluate.rows import Row
    from truing_evaluate.shapes import Behaviour, Changed, Figure

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="BEFORE [AFTER...]",
        help="RUN/PHASE that answered probes, or its groups.jsonl; the others are held against the first.",
        show_default=False,
    ),
]


def measure(files: Files, json: Json = False, mlflow: Mlflow = False) -> None:
    """Say what alignment did to a model: sycophancy, refusals, capability, length, hedging.

    Reads what models answered to a source `probes`, and says of each figure how far it has changed since the first
    file, on the same prompts, with an interval. Of other prompts: length and hedging, and where they have scores
    capability, 1 and above being right. Samples that lm-eval logged are capability, too.
    """
    installed("measure")
    asked = [_asked_of(file) for file in files]
    reports = [_report(some, asked[0] if at else None) for at, some in enumerate(asked)]
    if mlflow:
        for told in reports:
            heads, table = _table(told, reports[0])
            sent(told, "measure", {"before": told.before}, tables={"measures.json": (heads, table)})
    if json:
        as_json(reports[0] if len(reports) == 1 else reports)
    else:
        _show(reports)


class Answered(NamedTuple):
    """A file of answers: how many prompts, and what they add up to."""

    file: str
    prompts: int
    sums: Sums


def _asked_of(path: Path) -> Answered:
    from truing_evaluate.harness import logged
    from truing_evaluate.measures import Asked, sums_of
    from truing_evaluate.rows import numbered, read

    if known := logged(path):
        return Answered(str(path), len(known), {"capability": known})
    data = read(path)
    names = {row.where: name for name, row in numbered(data.rows)}
    sums = sums_of(data.each(lambda row: Asked(names[row.where], *_asked(row))))
    return Answered(data.origin, len(data.rows), sums)


def _asked(row: Row) -> tuple[Mapping[str, Any], Sequence[str], Sequence[float]]:
    """What a row is there for, its completions, and their scores where it has any. Raises BadValue."""
    from truing_evaluate.rows import BadValue, numbers

    told = row.values.get("metadata", {})
    if not isinstance(told, dict) or "probe" not in told:
        return {}, row.texts, numbers(row, "scores") if "scores" in row.values else ()
    if lacking := [key for key in _KNOWN.get(told["probe"], ("probe",)) if not isinstance(told.get(key), str)]:
        raise BadValue(f'the metadata of a probe "{told["probe"]}" have no "{lacking[0]}"')
    return told, row.texts, numbers(row, "scores") if "given" in told else ()


_KNOWN = {
    "belief": ("item", "wording", "right", "wrong", "letters"),
    "safety": ("label",),
    "task": ("answer",),
    "plain": (),
}


def _report(own: Answered, first: Answered | None) -> Behaviour:
    """What a file says, and how that differs from another. Raises UserError where the two have nothing in common."""
    from truing_evaluate.intervals import DRAWS
    from truing_evaluate.measures import MEASURES, change_of, figure_of, verdict
    from truing_evaluate.shapes import Behaviour, Changed, Measured

    theirs = first.sums if first else {}
    changes: list[Changed] = []
    for name in own.sums.keys() & theirs.keys():
        if found := change_of(name, theirs[name], own.sums[name]):
            change, items = found
            by_ratio = MEASURES[name].by_ratio
            changes.append(
                Changed(name=name, items=items, change=change, by_ratio=by_ratio, verdict=verdict(name, change, items))
            )
    if first and not changes:
        mend = "ask both the same: a source of the same options, `seed` among them"
        raise UserError(Problem(own.file, f"it has no prompt in common with {first.file}", mend))
    order = list(MEASURES)
    return Behaviour(
        file=own.file,
        prompts=own.prompts,
        intervals=f"95 %, bootstrap over prompts, {DRAWS:,} draws",
        figures=[
            Measured(name=name, items=len(items), value=figure_of(name, items)) for name, items in own.sums.items()
        ],
        before=first.file if first else "",
        changes=sorted(changes, key=lambda each: order.index(each.name)),
    )


def _show(reports: Sequence[Behaviour]) -> None:
    from truing_evaluate.printing import columns

    print(f"intervals: {reports[0].intervals}")
    for told in reports[1:] or reports:
        against = f", against {told.before}" if told.before else ""
        print(f"\n{told.file}: {told.prompts:,} prompts{against}")
        columns(*_table(told, reports[0]), "  ")


def _table(told: Behaviour, first: Behaviour) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the figures of a file, beside those of the first where it is another one."""
    from truing_evaluate.printing import figure, signed

    if not told.before:
        return ["MEASURE", "ITEMS", "VALUE"], [[it.name, f"{it.items:,}", figure(it.value)] for it in told.figures]
    one, two = ({it.name: figure(it.value) for it in some.figures} for some in (first, told))
    rows = [
        [
            it.name,
            f"{it.items:,}",
            one[it.name],
            two[it.name],
            _times(it.change) if it.by_ratio else signed(it.change),
            it.verdict,
        ]
        for it in told.changes
    ]
    return ["MEASURE", "ITEMS", "BEFORE", "AFTER", "CHANGE", "VERDICT"], rows


def _times(told: Figure) -> str:
    return f"x {told.value:.3f} [{told.low:.3f}, {told.high:.3f}]"

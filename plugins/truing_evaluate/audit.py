"""`truing audit`: what the labels of a judge are worth, principle by principle, by the verdicts that it wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from truing.errors import Problem, UserError
from truing_evaluate.commands import installed
from truing_reports.telling import Json, Mlflow, as_json, sent

if TYPE_CHECKING:
    from truing_evaluate.rows import Row
    from truing_evaluate.shapes import Audit, Audited

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="groups.jsonl, a run or RUN/PHASE that wrote one.", show_default=False)
]
Truth = Annotated[
    str,
    typer.Option(
        metavar="FIELD",
        help="What is true, a number for each completion, the larger the better; 'score_parts.rule/{principle}' has "
        "the principle's id in it. pairs: the pairs of the file, where people chose them.",
    ),
]
ALL = "all"
_NAME = 40
"""characters of a criterion that is a sentence, in a table"""
_LEAST = 1e-3
"""what a probability is held away from 0 and 1 by before its log-odds are taken"""


Chances = Annotated[list[Annotated[float, msgspec.Meta(ge=0, le=1)]], msgspec.Meta(max_length=3)]


class Verdict(msgspec.Struct, frozen=True):
    """A comparison as a judge writes it down. second: None for the answer that came with the prompt. forward, backward:
    the probability that what was shown first is better, what was shown second, and neither; empty without a verdict."""

    first: int
    second: int | None
    criterion: str
    forward: Chances
    backward: Chances
    principle: str = ""
    tokens: int = 0


class Label(NamedTuple):
    """A comparison. orders: the probability that the first is better, shown first and shown second; None without both
    verdicts. better: whether it is, 1 or 0; None where nobody says."""

    prompt: int
    principle: str
    orders: tuple[float, float] | None
    missing: float
    tokens: int
    better: float | None


def audit(file: File, truth: Truth = "", json: Json = False, mlflow: Mlflow = False) -> None:
    """Say what a judge said: by which principle, how surely, and whether both orders agree.

    A judge keeps every comparison as `verdicts`, in either order. With --truth: how often one order alone, and both
    averaged, agree with what is true.
    """
    installed("audit")
    told = audited(file, truth)
    if mlflow:
        sent(told, "audit", {"truth": truth}, tables={"audit.json": _table(told)})
    if json:
        as_json(told)
        return
    from truing_evaluate.printing import columns

    print(f"{told.file}: {told.prompts:,} prompts\nintervals: {told.intervals}\n")
    columns(*_table(told), "  ")


def audited(file: Path, truth: str = "") -> Audit:
    """All labels of a file. Raises UserError for a file without any, naming every row that is wrong."""
    from truing_evaluate.rows import read
    from truing_evaluate.shapes import Audit

    data = read(file)
    if not data.has("verdicts"):
        mend = "the scorers judge and openai-judge keep what they say"
        raise UserError(Problem(str(file), "it has no verdicts", mend))
    places = {row.where: at for at, row in enumerate(data.rows)}
    every = [label for some in data.each(lambda row: labels(row, places[row.where], truth)) for label in some]
    names = sorted({label.principle for label in every})
    parts = [(name, [label for label in every if label.principle == name]) for name in names]
    return Audit(
        file=data.origin,
        prompts=len(data.rows),
        intervals="95 %, Wilson's, over prompts",
        truth=truth,
        by=[_audited(name, some) for name, some in [*(parts if len(parts) > 1 else []), (ALL, every)]],
    )


def labels(row: Row, prompt: int, truth: str) -> list[Label]:
    """The comparisons of a row. Raises BadValue for a verdict that is none, and where the truth is not there."""
    from truing_evaluate.rows import BadValue

    found: list[Label] = []
    for at, each in enumerate(row.values.get("verdicts", []), 1):
        try:
            told = msgspec.convert(each, Verdict)
        except msgspec.ValidationError as error:
            mend = "a comparison, as a judge writes it; ratings have no order, and are not audited"
            raise BadValue(f"verdict {at} is no comparison: {error}", mend) from None
        if not all(0 <= side < len(row.texts) for side in (told.first, told.second or 0)):
            raise BadValue(f"verdict {at} is about a completion that is not there")
        name = told.principle or told.criterion
        sides = [_first(chances) for chances in (told.forward, told.backward) if chances]
        orders = (sides[0], 1 - sides[1]) if len(sides) == 2 else None
        found.append(Label(prompt, name, orders, 1 - len(sides) / 2, told.tokens, _better(row, told, name, truth)))
    return found


def _first(chances: Sequence[float]) -> float:
    """The probability that what was shown first is better; a tie counts half."""
    return chances[0] + (chances[2] / 2 if len(chances) == 3 else 0.0)


def _better(row: Row, told: Verdict, principle: str, truth: str) -> float | None:
    from truing_evaluate.rows import numbers

    if not truth or told.second is None:
        return None
    sides = (told.first, told.second)
    if truth == "pairs":
        chosen = [tuple(pair) for pair in row.values.get("pairs", [])]
        return None if (sides in chosen) == (sides[::-1] in chosen) else float(sides in chosen)
    known = numbers(row, truth.replace("{principle}", principle))
    first, second = (known[side] for side in sides)
    return None if first == second else float(first > second)


def _audited(name: str, some: Sequence[Label]) -> Audited:
    """What labels come to. A side that is held to be as likely as the other is half chosen."""
    import numpy as np

    from truing_evaluate.intervals import share_of
    from truing_evaluate.shapes import Audited

    known = [(label, label.orders) for label in some if label.orders]
    groups = np.array([label.prompt for label, _ in known], dtype=np.int64)
    orders = np.array([both for _, both in known]).reshape(-1, 2)
    shown_first = np.stack([orders[:, 0], 1 - orders[:, 1]], 1)
    held = np.clip(shown_first, _LEAST, 1 - _LEAST)
    mean = orders.mean(1)
    truth = np.array([np.nan if label.better is None else label.better for label, _ in known])
    apart = ~np.isnan(truth)
    right = 1 - np.abs(truth[apart, None] - _side(np.stack([orders[apart, 0], orders[apart, 1], mean[apart]], 1)))
    return Audited(
        principle=name,
        labels=len(some),
        missing=float(np.mean([label.missing for label in some])) if some else 0.0,
        sure=float(np.maximum(mean, 1 - mean).mean()) if known else 0.5,
        disagree=share_of((_side(orders[:, 0]) != _side(orders[:, 1])).astype(float), groups),
        first=float(_side(shown_first).mean()) if known else 0.5,
        bias=float(np.log(held / (1 - held)).mean()) if known else 0.0,
        tokens=sum(label.tokens for label in some),
        apart=int(apart.sum()),
        one_order=share_of(right[:, :2].mean(1), groups[apart]) if apart.any() else None,
        agree=share_of(right[:, 2], groups[apart]) if apart.any() else None,
    )


def _side(chances: Any) -> Any:
    """Which side probabilities are for: 1, 0, or one half."""
    import numpy as np

    return (np.sign(chances - 0.5) + 1) / 2


def _table(told: Audit) -> tuple[list[str], list[list[str]]]:
    from truing_evaluate.printing import figure

    heads = ["PRINCIPLE", "LABELS", "MISSING", "SURE", "ORDERS DISAGREE", "FIRST", "BIAS", "TOKENS"]
    more = ["TOLD APART", "ONE ORDER AGREES", "BOTH AGREE"] if told.truth else []
    rows = [
        [
            *(
                shorten(it.principle, _NAME, placeholder=" ..."),
                f"{it.labels:,}",
                f"{it.missing:.3f}",
                f"{it.sure:.3f}",
                figure(it.disagree),
            ),
            *(f"{it.first:.3f}", f"{it.bias:+.2f}", f"{it.tokens:,}"),
            *([f"{it.apart:,}", *(figure(each) if each else "-" for each in (it.one_order, it.agree))] if more else []),
        ]
        for it in told.by
    ]
    return [*heads, *more], rows

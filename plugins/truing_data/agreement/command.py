"""`truing data report`: the options, and who does what. What is heavy is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing_reports.telling import Json, Mlflow, as_json, sent

if TYPE_CHECKING:
    from truing_data.agreement.reading import Comparisons
    from truing_data.agreement.shapes import Report

Text = str | None
Several = list[str] | None

File = Annotated[str, typer.Argument(metavar="FILE", help="JSON lines or Parquet.", show_default=False)]
Against = Annotated[
    Text, typer.Option(metavar="FILE", help="What it should share nothing with: a holdout, or any file of prompts.")
]
Prompt = Annotated[Several, typer.Option(metavar="COLUMN", help="The prompt; several are joined.")]
Chosen = Annotated[Text, typer.Option(metavar="COLUMN", help="The better answer.")]
Rejected = Annotated[Text, typer.Option(metavar="COLUMN", help="The worse answer.")]
First = Annotated[Text, typer.Option(metavar="COLUMN", help="One of two answers, the one shown first.")]
Second = Annotated[Text, typer.Option(metavar="COLUMN", help="The other one.")]
Votes = Annotated[
    Several,
    typer.Option(
        metavar="COLUMN", help="A label, a list of labels or of [annotator, label]; or several columns of a label each."
    ),
]
Favours = Annotated[Several, typer.Option(metavar="LABEL=SIDE", help="What a vote is for: first, second or tie.")]
Scale = Annotated[Text, typer.Option(metavar="A,B,...", help="Labels in order, for the ordinal coefficient.")]
Strength = Annotated[Text, typer.Option(metavar="COLUMN", help="How much better the first is; below 0: the second.")]
Order = Annotated[Text, typer.Option(metavar="COLUMN", help="Which answer was shown first: its column's name, 1 or 2.")]
Annotator = Annotated[Text, typer.Option(metavar="COLUMN", help="Who judged, if a row is one annotator's word.")]
Item = Annotated[
    Text, typer.Option(metavar="COLUMN", help="What was judged; the same prompt and answers if not given.")
]
Completions = Annotated[Text, typer.Option(metavar="COLUMN", help="A list of ranked answers.")]
Rank = Annotated[Text, typer.Option(metavar="COLUMN", help="Their places, the smallest is best.")]
Score = Annotated[Text, typer.Option(metavar="COLUMN", help="Their scores, the largest is best.")]
Category = Annotated[Several, typer.Option(metavar="COLUMN", help="Count rows by this; may be given many times.")]
Where = Annotated[Several, typer.Option(metavar="COLUMN=VALUE", help="Only rows that are equal in this.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unusable rows out and count them.")]
Prior = Annotated[
    tuple[float, float],
    typer.Option(
        metavar="RIGHT WRONG", help="Pseudo-counts of every annotator's right and of each kind of wrong votes."
    ),
]
Posterior = Annotated[Path | None, typer.Option(metavar="FILE", help="Write what is believed of every item there.")]


def report(
    file: File,
    against: Against = None,
    prompt: Prompt = None,
    chosen: Chosen = None,
    rejected: Rejected = None,
    first: First = None,
    second: Second = None,
    votes: Votes = None,
    favours: Favours = None,
    scale: Scale = None,
    strength: Strength = None,
    order: Order = None,
    annotator: Annotator = None,
    item: Item = None,
    completions: Completions = None,
    rank: Rank = None,
    score: Score = None,
    category: Category = None,
    where: Where = None,
    skip_bad: SkipBad = False,
    prior: Prior = (2.0, 1.0),
    posterior: Posterior = None,
    mlflow: Mlflow = False,
    json: Json = False,
) -> None:
    """Say what a file of comparisons is worth.

    Agreement and what it bounds, a model of each annotator, biases of position and length, copies, leaks. A file has
    chosen and rejected answers, two answers and votes, ranked answers, or labels of several annotators.
    """
    _installed(prior)
    from truing_data.agreement.columns import Columns
    from truing_data.agreement.reading import read
    from truing_data.agreement.report import reported

    answers = _sides(chosen, rejected, first, second)
    judged = (votes or [], _favours(favours or []), scale.split(",") if scale else [], strength, order, annotator, item)
    columns = Columns(prompt or [], *answers, *judged, completions, rank, score, category or [])
    here = read(file, columns, _where(where or []), skip_bad)
    other = read(against, here.columns, {}, skip_bad, judged=False) if against else None
    if posterior:
        _write(posterior, here, prior)
    told = reported(here, other, right=prior[0], wrong=prior[1])
    if mlflow:
        sent(told, "data report", {"against": against or "", "where": where or [], "prior": prior})
    _show(told, json)


def _installed(prior: tuple[float, float]) -> None:
    """Refuse before anything is read. Raises UserError."""
    from truing.errors import Problem, UserError
    from truing_data.held import library

    if min(prior) <= 0:
        raise UserError(Problem("--prior", "pseudo-counts are larger than 0", "for example --prior 2 1"))
    for name in ("numpy", "krippendorff"):
        library(name, "data", "truing data report")


def _show(told: Report, json: bool) -> None:
    from truing_data.agreement.printing import show

    if json:
        as_json(told)
    else:
        show(told)


def _sides(
    chosen: str | None, rejected: str | None, first: str | None, second: str | None
) -> tuple[str | None, str | None, bool]:
    from truing.errors import Problem, UserError

    if (chosen or rejected) and (first or second):
        mend = "--chosen and --rejected if it is known which is better, --first and --second if votes say it"
        raise UserError(Problem("--chosen --first", "the two answers are named twice", mend))
    known = chosen is not None or rejected is not None
    return (chosen, rejected, True) if known else (first, second, False)


def _favours(given: list[str]) -> dict[str, Any]:
    from truing.errors import Problem, UserError, did_you_mean
    from truing_data.votes import SIDES

    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in given:
        label, sign, side = text.rpartition("=")
        if not sign or side not in SIDES:
            problems.append(Problem(f"--favours {text}", "expected LABEL=SIDE", did_you_mean(side, SIDES)))
        found[label] = side
    if problems:
        raise UserError(problems)
    return found


def _where(given: list[str]) -> dict[str, Any]:
    import msgspec

    from truing.errors import Problem, UserError

    found: dict[str, Any] = {}
    for text in given:
        column, sign, value = text.partition("=")
        if not sign:
            raise UserError(Problem(f"--where {text}", "expected COLUMN=VALUE"))
        try:
            found[column] = msgspec.json.decode(value, type=str | int | float | bool)
        except msgspec.DecodeError:
            found[column] = value
    return found


def _write(path: Path, here: Comparisons, prior: tuple[float, float]) -> None:
    """A line per item: what the model believes of its label."""
    import msgspec

    from truing.errors import Problem, UserError
    from truing_data.agreement.dawid_skene import dawid_skene
    from truing_data.agreement.table import votes_of

    if not here.labels:
        raise UserError(Problem(f"--posterior {path}", "there are no votes to fit a model of annotators to"))
    votes = votes_of(here.votes, here.labels)
    beliefs = dawid_skene(votes, right=prior[0], wrong=prior[1]).posterior.tolist()
    rows = [
        {"where": place, "votes": len(given), "posterior": dict(zip(here.labels, belief, strict=True))}
        for place, given, belief in zip(here.places, here.votes, beliefs, strict=True)
    ]
    try:
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot write this file: {error.strerror}")) from None

"""`truing evaluate` and `truing select`: the options, and who does what. What is heavy is imported when it is
called."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import typer

from truing.errors import Problem, UserError, did_you_mean
from truing_reports.telling import Json, Mlflow, as_json, sent

if TYPE_CHECKING:
    from truing_evaluate.overoptimization import Overoptimization
    from truing_evaluate.rows import Scored
    from truing_evaluate.selecting import Answers, How, Prompt, Truths
    from truing_evaluate.shapes import Report, Selection
    from truing_evaluate.voting import Weigh

_HOWS = ("best", "vote", "weighted-vote")
_WEIGHS = ("scores", "sigmoid", "softmax")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="groups.jsonl, a run or RUN/PHASE that wrote one.", show_default=False),
]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="groups.jsonl, a run or RUN/PHASE that wrote one.", show_default=False)
]
Scores = Annotated[
    str,
    typer.Option(
        metavar="FIELD",
        help="The scores, a number for each completion. A key in braces is what a pair has under it: "
        "'score_parts.{stratum}'.",
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY", help="Accuracy for each value of a key of the metadata or of the row; may be repeated."
    ),
]
InSections = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Sections of the first --by: a key, or rewardbench for its subsets and weights."),
]
Threshold = Annotated[
    float, typer.Option(help="A step that scores less is taken for wrong: 0 for log-odds, 0.5 for probabilities.")
]
Recover = Annotated[
    bool,
    typer.Option(
        "--recovered",
        help="The first file is a weak supervisor's, the last a ceiling's: what those between recover of the gap.",
    ),
]
Ways = Annotated[
    list[str] | None, typer.Option(metavar="best|vote|weighted-vote", help="How one is chosen; may be repeated.")
]
Ns = Annotated[str | None, typer.Option(metavar="N,N,...", help="Among how many; else 1, 2, 4 ... up to all.")]
Truth = Annotated[
    str | None, typer.Option(metavar="FIELD", help="What is true of each completion, or answers: the known answer.")
]
Gold = Annotated[Path | None, typer.Option(metavar="FILE", help="The truth is what this file scores the same texts.")]
Answer = Annotated[
    str, typer.Option(metavar="RULE", help="What is voted for: number, line, text, or a regular expression.")
]
Weighing = Annotated[
    str, typer.Option(metavar="scores|sigmoid|softmax", help="Weights of votes: the scores, or what is made of them.")
]
Write = Annotated[Path | None, typer.Option(metavar="FILE", help="Write what is chosen among all, as demonstrations.")]


def evaluate(
    files: Files,
    scores: Scores = "scores",
    by: By = None,
    sections: InSections = None,
    threshold: Threshold = 0.0,
    recovered: Recover = False,
    json: Json = False,
    mlflow: Mlflow = False,
) -> None:
    """Say what the scores of a file are worth.

    A file has a line for each prompt: id, prompt, completions, and along these scores. With pairs or rank: accuracy,
    calibration, length, categories. With label: AUROC, best of n. With step_scores and step_labels: the first wrong
    step. Several files are compared.
    """
    installed("evaluate")
    from truing_evaluate import printing, reporting, rows

    if recovered and len(files) < 3:
        mend = "name the weak supervisor's first, the ceiling's last, and students' between them"
        raise UserError(Problem("--recovered", f"a gap between two files, and {len(files)} were named", mend))
    data = [rows.read(file) for file in files]
    reports = [reporting.report(some, scores, by or [], sections, threshold) for some in data]
    apart = [
        reporting.difference(data[0], some, scores) if reports[0].pairs and found.pairs else None
        for some, found in zip(data[1:], reports[1:], strict=True)
    ]
    gaps = [reporting.recovered(data[0], some, data[-1], scores) for some in data[1:-1]] if recovered else []
    if mlflow:
        options = {"scores": scores, "by": by or [], "sections": sections or "", "threshold": threshold}
        for told in reports:
            sent(told, "evaluate", options, pictures_of(told))
    if json:
        compared = {"files": reports, "differences": apart, "recovered": gaps}
        as_json(reports[0] if len(reports) == 1 else compared)
    elif len(reports) == 1:
        printing.show(reports[0])
    else:
        printing.compare(reports, apart)
        printing.show_recovered(gaps)


def select(
    file: File,
    how: Ways = None,
    n: Ns = None,
    scores: Scores = "scores",
    truth: Truth = None,
    gold: Gold = None,
    answer: Answer = "number",
    weigh: Weighing = "scores",
    write: Write = None,
    json: Json = False,
    mlflow: Mlflow = False,
) -> None:
    """Say what choosing among completions is worth, and choose.

    The best by score, the answer with most votes, or with most votes weighed by score, among n completions. With a
    truth: how good what is chosen is, for every n, without bias, and the best that could be chosen.
    """
    installed("select")
    from truing_evaluate import printing, rows, selecting
    from truing_evaluate.answers import reader

    hows, ns, weights = _ways(how, weigh, write), _whole(n), cast("Weigh", weigh)
    data, read = rows.read(file), reader(answer)
    wanted = scores if data.has(scores) or set(hows) != {"vote"} else None
    called, truths = _truth(data, truth, gold, scores, read)
    prompts = selecting.prompts_of(data, wanted, truths, read)
    found = selecting.choices(prompts, hows, ns or selecting.usual(prompts), weights)
    report = selecting.selection(data.origin, prompts, found, called, answer if set(hows) != {"best"} else "")
    if write:
        _write(write, file, prompts, hows[0], weights)
    if mlflow:
        options = {"how": hows, "truth": called, "answer": report.answer, "weigh": weigh, "scores": scores}
        sent(report, "select", options, pictures_of(report))
    if json:
        as_json(report)
    else:
        printing.show_selection(report)


def _truth(data: Scored, truth: str | None, gold: Path | None, scores: str, read: Answers) -> tuple[str, Truths | None]:
    """What the truth is called, and how it is found: as asked for, else `label` or `answers` if the file has them."""
    from truing_evaluate import rows, selecting

    if gold is not None:
        if truth is not None:
            raise UserError(Problem("--gold", "--truth and --gold both say what is true", "leave one of them out"))
        return f"{scores} in {gold}", selecting.gold_of(rows.read(gold), scores)
    name = truth or next((name for name in ("label", "answers") if data.has(name)), None)
    if name is None:
        return "", None
    return name, lambda _, row: selecting.truth_of(row, name, read)


def _ways(how: list[str] | None, weigh: str, write: Path | None) -> list[How]:
    """The ways that were asked for. Raises UserError with every option that is none."""
    hows = list(dict.fromkeys(how or ["best"]))
    bad = [Problem("--how", f'no way called "{it}"', did_you_mean(it, _HOWS)) for it in hows if it not in _HOWS]
    if weigh not in _WEIGHS:
        bad.append(Problem("--weigh", f'no weights called "{weigh}"', did_you_mean(weigh, _WEIGHS)))
    if write and len(hows) > 1:
        bad.append(
            Problem("--write", f"{len(hows)} ways choose differently", "name one --how to write what it chooses")
        )
    if bad:
        raise UserError(bad)
    return cast("list[How]", hows)


def _whole(text: str | None) -> list[int]:
    parts = (text or "").split(",") if text else []
    if odd := [part for part in parts if not part.strip().isdigit()]:
        raise UserError(Problem("--n", f'"{odd[0]}" is no number of completions', "write it like 1,2,4,8"))
    return sorted({int(part) for part in parts})


def _write(path: Path, file: Path, prompts: Sequence[Prompt], how: How, weigh: Weigh) -> None:
    from truing_evaluate.rows import located
    from truing_evaluate.selecting import written

    if path.exists() and path.samefile(located(file)):
        raise UserError(Problem("--write", f"{path} is the file that is read", "name another one"))
    try:
        path.write_bytes(b"".join(msgspec.json.encode(written(prompt, how, weigh)) + b"\n" for prompt in prompts))
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot write this file: {error.strerror}")) from None
    print(f"{len(prompts):,} demonstrations: {path}", file=sys.stderr)


def pictures_of(report: Report | Selection | Overoptimization) -> Mapping[str, Any]:
    """What a report shows, by file name; nothing without matplotlib, which MLflow's small package lacks."""
    if not importlib.util.find_spec("matplotlib"):
        return {}
    from truing_evaluate.plots import pictures

    return pictures(report)


def installed(command: str) -> None:
    """Raises UserError where what computes is missing."""
    if importlib.util.find_spec("numpy") is None:
        raise UserError(Problem(f"truing {command}", "numpy is not installed", "pip install 'truing[evaluate]'"))

"""Process against outcome supervision, as Lightman et al. compare them (arXiv:2305.20050): labels that nobody gave.

recipes/process-supervision.toml is run: a small policy that was shown planted misconceptions, labels of steps by
rollouts, a reward model of steps and one of answers that learn from the same solutions, and 64 solutions of each of 120
sums to choose among. TRUING_RUNS names folders of runs that were made before, separated by commas. Tables are printed,
and written to the file that TRUING_TABLE names, with a picture beside it.

Several runs are asked the same sums, so intervals are a bootstrap over sums, of means over runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.science.children import ran, rows, where

from truing_data.chains import right_steps
from truing_evaluate.answers import reader
from truing_evaluate.bestof import best_of
from truing_evaluate.intervals import Array, mean_of
from truing_evaluate.rows import Row, read
from truing_evaluate.selecting import How, Prompt, prompts_of, truth_of, usual
from truing_evaluate.voting import Weigh, vote

RECIPE = Path(__file__).parents[2] / "recipes" / "process-supervision.toml"
MODULUS = 16
SEEDS = (0, 1)
WAYS = ("best by steps", "best by answer", "votes", "votes weighed by steps", "votes weighed by answer")

Curves = Mapping[str, Mapping[int, Array]]
"""how often what is chosen among n is right, by the way it is chosen and by n, for each sum [prompt]"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if known := os.environ.get("TRUING_RUNS"):
        return [Path(each) for each in known.split(",")]
    text = RECIPE.read_text(encoding="utf-8")
    return [ran(text.replace("seed = 0", f"seed = {seed}", 1), tmp_path_factory.mktemp("run")) for seed in SEEDS]


def test_labels_by_rollouts_agree_with_what_is_true_of_the_steps(runs: list[Path]) -> None:
    print(f"\n{where()}")
    for run in runs:
        judged = np.array([both for row in rows(run / "label/data/groups.jsonl") for both in labels_of(row)])
        label, true = judged[:, 0], judged[:, 1]
        share = float((label == true).mean())
        missed, spared = float((~label)[true].mean()), float(label[~true].mean())
        print(f"labels: {share:.3f} of {len(label):,} are true; of right steps {missed:.3f} are called wrong, ", end="")
        print(f"of {int((~true).sum()):,} wrong ones {spared:.3f} right")
        assert share > 0.9


def labels_of(row: dict[str, Any]) -> Iterator[tuple[bool, bool]]:
    """Of every judged step its label, and whether it and all before it are right; the last one of a solution only if
    nothing is left to be done."""
    question = row["prompt"].strip()
    whole = len(question.split()) - 1
    for steps, places, labels in zip(row["steps"], row["step_index"], row["step_labels"], strict=True):
        right = right_steps(question, "\n".join(steps), MODULUS)
        for place, label in zip(places, labels, strict=True):
            ended = place == len(steps) - 1 and len(steps) != whole
            yield label >= 0.5, all(right[: place + 1]) and not ended


def test_steps_choose_better_than_answers_and_both_better_than_votes(runs: list[Path]) -> None:
    curves = over_seeds([curves_of(run) for run in runs])
    most = max(curves["votes"])
    single, votes = curves["votes"][1], curves["votes"][most]
    answers, steps = curves["best by answer"][most], curves["best by steps"][most]
    ahead = {
        "votes ahead of a single solution": votes - single,
        "best by answer ahead of votes": answers - votes,
        "best by steps ahead of best by answer": steps - answers,
    }
    text = "\n".join([*table(curves), "", *(f"{what}: {figure(gain)}" for what, gain in ahead.items())]) + "\n"
    print(f"\n{text}")
    if place := os.environ.get("TRUING_TABLE", ""):
        Path(place).write_text(text, encoding="utf-8")
        draw(curves, Path(place).with_suffix(".png"))
    assert all(mean_of(gain).low > 0 for gain in ahead.values())


def curves_of(run: Path) -> Curves:
    data, total = read(run / "score"), reader(r"=(\d+)$")

    def right(_: str, row: Row) -> Array:
        return truth_of(row, "score_parts.right", total)

    steps, answers = (prompts_of(data, f"score_parts.{by}", right, total) for by in ("process", "outcome"))
    ways: dict[str, tuple[list[Prompt], How, Weigh]] = {
        "best by steps": (steps, "best", "scores"),
        "best by answer": (answers, "best", "scores"),
        "votes": (answers, "vote", "scores"),
        "votes weighed by steps": (steps, "weighted-vote", "scores"),  # of steps a probability, of answers log-odds
        "votes weighed by answer": (answers, "weighted-vote", "sigmoid"),
    }
    return {
        way: {n: np.array([worth(prompt, how, weigh, n) for prompt in prompts]) for n in usual(prompts)}
        for way, (prompts, how, weigh) in ways.items()
    }


def worth(prompt: Prompt, how: How, weigh: Weigh, n: int) -> float:
    """How often what is chosen among n is right."""
    assert prompt.scores is not None
    assert prompt.truth is not None
    if how == "best":
        return best_of(prompt.scores, prompt.truth, n)
    return vote(prompt.answers, prompt.weights(how, weigh), prompt.truth, n, prompt.name)


def over_seeds(curves: list[Curves]) -> Curves:
    return {way: {n: np.mean([each[way][n] for each in curves], axis=0) for n in curves[0][way]} for way in curves[0]}


def table(curves: Curves) -> Iterator[str]:
    yield f"| n | {' | '.join(WAYS)} |"
    yield "| --- " * (1 + len(WAYS)) + "|"
    for n in curves["votes"]:
        yield f"| {n} | {' | '.join(figure(curves[way][n]) for way in WAYS)} |"


def figure(values: Array) -> str:
    """The mean over sums, and its interval."""
    it = mean_of(values)
    return f"{it.value:.3f} [{it.low:.3f}, {it.high:.3f}]"


def draw(curves: Curves, path: Path) -> None:
    """Each way as a line, with its interval as a band."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(8, 4.6), layout="constrained")
    axes = sheet.add_subplot(xlabel="solutions to choose among", ylim=(0, 1.02))
    axes.set_ylabel("chosen answers that are right")
    for way in WAYS:
        found = [mean_of(values) for values in curves[way].values()]
        line = axes.plot(list(curves[way]), [it.value for it in found], marker="o", markersize=3, label=way)[0]
        low, high = [it.low for it in found], [it.high for it in found]
        axes.fill_between(list(curves[way]), low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(curves["votes"]), labels=[str(n) for n in curves["votes"]])
    axes.legend()
    sheet.savefig(path, dpi=100)

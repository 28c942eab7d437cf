"""Process against outcome supervision, as Lightman et al. compare them (arXiv:2305.20050): labels that nobody gave.

recipes/process-supervision.toml is run: a small policy, labels of steps by rollouts, a reward model of steps and one
of answers that learn from the same solutions, and 64 solutions of each of 200 sums to choose among. A quarter of an
hour on two quiet CPU cores. TRUING_RUN names a run that was made before. Tables are printed.

Asserted is that the labels are right and that votes help. That steps choose better than answers, and both better than
votes, is what the paper found, and what models of this size were not seen to do: docs/explain/results.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.science.children import ran, rows, told, where

from truing_data.chains import right_steps

RECIPE = Path(__file__).parents[2] / "recipes" / "process-supervision.toml"
WAYS = ("best", "vote", "weighted-vote")
NAMES = {
    ("process", "best"): "best by steps",
    ("outcome", "best"): "best by answer",
    ("process", "weighted-vote"): "votes weighed by steps",
    ("outcome", "weighted-vote"): "votes weighed by answer",
    ("process", "vote"): "votes",
}

Curves = dict[tuple[str, str], dict[int, dict[str, float]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = os.environ.get("TRUING_RUN")
    return Path(known) if known else ran(RECIPE.read_text(encoding="utf-8"), tmp_path_factory.mktemp("run"))


def test_labels_by_rollouts_agree_with_what_is_true_of_the_steps(run: Path) -> None:
    agree = [label == true for row in rows(run / "label/data/groups.jsonl") for label, true in judged(row)]
    share = sum(agree) / len(agree)
    print(f"\nlabels: {share:.3f} of {len(agree):,} agree with what is true of the steps; {where()}")
    assert share > 0.9


def judged(row: dict[str, Any]) -> list[tuple[bool, bool]]:
    """Of every judged step its label, and whether it and all before it are right; the last one of a solution only if
    nothing is left to be done."""
    question = row["prompt"].strip()
    whole = len(question.split()) - 1
    found: list[tuple[bool, bool]] = []
    for steps, places, labels in zip(row["steps"], row["step_index"], row["step_labels"], strict=True):
        right = right_steps(question, "\n".join(steps))
        for place, label in zip(places, labels, strict=True):
            ended = place == len(steps) - 1 and len(steps) != whole
            found.append((label >= 0.5, all(right[: place + 1]) and not ended))
    return found


def test_votes_are_right_more_often_than_a_single_solution(run: Path) -> None:
    curves = measured(run)
    ns = sorted(curves["process", "best"])
    print("\n| n | " + " | ".join(NAMES.values()) + " |\n|" + " --- |" * (1 + len(NAMES)))
    for n in ns:
        cells = [curves[key][n] for key in NAMES]
        print(f"| {n} | " + " | ".join(f"{it['value']:.3f} [{it['low']:.3f}, {it['high']:.3f}]" for it in cells) + " |")
    votes = curves["process", "vote"]
    assert votes[ns[-1]]["low"] > votes[1]["high"]


def measured(run: Path) -> Curves:
    """How often what is chosen is right, by who scores, how it is chosen, and among how many."""
    curves: Curves = {}
    for scorer in ("process", "outcome"):
        hows = [part for how in WAYS for part in ("--how", how)]
        asked = (str(run / "score"), "--scores", f"score_parts.{scorer}", "--truth", "score_parts.right", *hows)
        said = told("select", *asked, "--answer", r"=(\d+)$", "--weigh", "sigmoid")
        for choice in said["choices"]:
            for chosen in choice["chosen"]:
                curves.setdefault((scorer, chosen["how"]), {})[choice["n"]] = chosen["truth"]
    return curves

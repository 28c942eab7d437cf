"""What a run of recipes/prm-chains.toml came to: labels against the truth of every step, and ways to choose among n.

python -m tests.science.process_chains RUN...     prints the tables of each run, and draws docs/_static/process.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import comb
from operator import and_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from truing_data.chains import right_steps
from truing_evaluate.answers import reader
from truing_evaluate.bestof import best_of
from truing_evaluate.intervals import Array, mean_of
from truing_evaluate.rows import read
from truing_evaluate.selecting import prompts_of, truth_of
from truing_evaluate.shapes import Figure
from truing_evaluate.voting import vote, weighed

FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "process.svg"


class Labels(NamedTuple):
    """Labels of steps from which solutions were finished k times. right: the share of steps that are right. hard: of
    labels by j <= k rollouts, 1 if any comes out right, the share that agrees with the truth; early: by all k, of steps
    up to the first wrong one; soft: of labels that are 1 if half of all k come out right. missed: of right steps, the
    share that no rollout completes; mended: of wrong ones, the share that some does. tokens: of all rollouts; written:
    of the solutions, a byte each and an end token."""

    steps: int
    k: int
    right: float
    hard: Mapping[int, float]
    soft: float
    early: float
    missed: float
    mended: float
    tokens: int
    written: int


def labels(run: Path) -> Labels:
    """How often rollouts say of a step what is true of it: that no step up to it is wrong."""
    rows = [json.loads(line) for line in (run / "label" / "data" / "groups.jsonl").read_text().splitlines()]
    found = np.array([step for row in rows for step in _judged(row)], dtype=float)
    right, before, tried, solved = found.T
    k = int(tried.max())
    chances = {j: _some(solved, tried, j) for j in (1, 2, 4, 8, 16) if j <= k}
    agree = (solved > 0) == (right > 0)
    return Labels(
        steps=len(found),
        k=k,
        right=float(right.mean()),
        hard={j: float(np.where(right > 0, some, 1 - some).mean()) for j, some in chances.items()},
        soft=float(((solved / tried >= 0.5) == (right > 0)).mean()),
        early=float(agree[before > 0].mean()),
        missed=float((solved[right > 0] == 0).mean()),
        mended=float((solved[right == 0] > 0).mean()),
        tokens=sum(row["rollout_tokens"] for row in rows),
        written=sum(len(text) + 1 for row in rows for text in row["completions"]),
    )


def _judged(row: Mapping[str, Any]) -> list[tuple[bool, bool, int, int]]:
    """Of each step that was tried: is all right up to it, and up to the one before it; how often it was tried, and how
    often it came out right."""
    found: list[tuple[bool, bool, int, int]] = []
    for at, steps in enumerate(row["steps"]):
        whole = [True, *accumulate(right_steps(row["prompt"][-1]["content"], "\n".join(steps)), and_)]
        for place, tried, solved in zip(
            row["step_index"][at], row["step_rollouts"][at], row["step_solved"][at], strict=True
        ):
            if tried:
                found.append((whole[place + 1], whole[place], tried, solved))
    return found


def _some(solved: Array, tried: Array, few: int) -> Array:
    """The chance that some of a `few` rollouts, drawn from those tried, came out right. solved, tried [step]"""
    none = [comb(int(n - c), few) / comb(int(n), few) for c, n in zip(solved, tried, strict=True)]
    return 1 - np.array(none)


class Curves(NamedTuple):
    """How often what is chosen among n is right: [prompt, n] by way to choose."""

    ns: Sequence[int]
    right: Mapping[str, Array]

    def at_most(self, name: str) -> Figure:
        """The mean at the largest n, with its interval over prompts."""
        return mean_of(self.right[name][:, -1])

    def apart(self, one: str, other: str) -> Figure:
        """One way minus another at the largest n, on the same prompts."""
        return mean_of(self.right[one][:, -1] - self.right[other][:, -1])


def curves(run: Path) -> Curves:
    """Of every way to choose, at n = 1, 2, 4 ... as far as there are completions."""
    answer = reader("number")
    data = read(run / "score")
    by = {
        name: prompts_of(data, f"score_parts.{name}", lambda _, row: truth_of(row, "answers", answer), answer)
        for name in ("prm", "orm")
    }
    ns = [1 << power for power in range((len(by["prm"][0].places)).bit_length())]
    right: dict[str, list[list[float]]] = {}
    for prm, orm in zip(by["prm"], by["orm"], strict=True):
        assert prm.scores is not None
        assert orm.scores is not None
        assert prm.truth is not None
        of, truth, name = prm.answers, prm.truth, prm.name
        ways = {
            "PRM": [best_of(prm.scores, truth, n) for n in ns],
            "ORM": [best_of(orm.scores, truth, n) for n in ns],
            "vote weighed by PRM": [vote(of, prm.scores, truth, n, name) for n in ns],
            "vote weighed by ORM": [vote(of, weighed(orm.scores, "sigmoid"), truth, n, name) for n in ns],
            "majority": [vote(of, np.ones(len(of)), truth, n, name) for n in ns],
            "oracle": [best_of(truth, truth, n) for n in ns],
        }
        for way, worth in ways.items():
            right.setdefault(way, []).append(worth)
    return Curves(ns, {way: np.array(worth) for way, worth in right.items()})


def tell(run: Path) -> tuple[Labels, Curves]:
    """Print what a run came to; gives it, too."""
    said, found = labels(run), curves(run)
    print(f"\n{run.name}: {said.steps:,} steps tried, {said.right:.3f} of them right, k = {said.k}")
    print("  hard label agrees by rollouts:", ", ".join(f"{j}: {share:.3f}" for j, share in said.hard.items()))
    print(f"  up to the first wrong step: {said.early:.3f}; soft label, from a half on: {said.soft:.3f}")
    print(f"  right steps that no rollout completes {said.missed:.3f}, wrong ones that some mends {said.mended:.3f}")
    print(f"  {said.tokens:,} tokens of rollouts, {said.written:,} of solutions")
    print("  " + " " * 20 + "".join(f"{n:>8}" for n in found.ns))
    for way, worth in found.right.items():
        last = mean_of(worth[:, -1])
        print(f"  {way:<20}" + "".join(f"{share:8.3f}" for share in worth.mean(0)) + f"  {_interval(last)}")
    for one, other in (("PRM", "ORM"), ("PRM", "majority"), ("ORM", "majority")):
        apart = found.apart(one, other)
        print(f"  {one} minus {other}: {apart.value:+.3f} {_interval(apart)}")
    return said, found


def _interval(told: Figure) -> str:
    return f"[{told.low:.3f}, {told.high:.3f}]"


def draw(runs: Sequence[Curves], path: Path) -> None:
    """Accuracy against n, a panel for each run, a band for the interval over prompts of PRM and ORM."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "truing", "font.size": 9})
    figure, panels = pyplot.subplots(1, len(runs), figsize=(4.2 * len(runs), 3.2), sharey=True, squeeze=False)
    for number, (panel, found) in enumerate(zip(panels[0], runs, strict=True)):
        for way, worth in found.right.items():
            (line,) = panel.plot(found.ns, worth.mean(0), marker=".", label=way, lw=1, ls=_STYLE.get(way, "-"))
            if way in ("PRM", "ORM"):
                bounds = [mean_of(column) for column in worth.T]
                low, high = [it.low for it in bounds], [it.high for it in bounds]
                panel.fill_between(found.ns, low, high, color=line.get_color(), alpha=0.15, lw=0)
        panel.set_xscale("log", base=2)
        panel.set_xticks(found.ns, [str(n) for n in found.ns])
        panel.set_xlabel("completions to choose from")
        panel.set_title(f"run {number + 1}", fontsize=9)
    panels[0][0].set_ylabel("share of problems solved")
    panels[0][-1].legend(fontsize=7, frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


_STYLE = {"oracle": ":", "majority": "--"}

if __name__ == "__main__":
    draw([tell(Path(run))[1] for run in sys.argv[1:]], FIGURE)
    print(f"drawn: {FIGURE}")

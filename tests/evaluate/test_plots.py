"""Pictures say what the figures say."""

from __future__ import annotations

import pytest

from truing_evaluate import plots
from truing_evaluate.shapes import Bin, Choice, Chosen, Figure, Margins, Selection

pytest.importorskip("matplotlib", reason="matplotlib comes with mlflow: pip install -e '.[mlflow]'")


def figure(value: float) -> Figure:
    return Figure(value=value, low=value - 0.1, high=value + 0.1)


def test_a_reliable_score_lies_on_the_line() -> None:
    table = [Bin(low=0.5, high=0.6, pairs=10, confidence=0.55, accuracy=0.4)]
    (points,) = plots.reliability(table).axes[0].collections
    assert points.get_offsets().tolist() == [[0.55, 0.4]]


def test_every_pair_is_in_the_histogram() -> None:
    found = Margins(mean=0.0, deviation=1.0, small=0.0, better=0.0, worse=0.0, edges=[-1.0, 0.0, 1.0], counts=[3, 5])
    (stairs,) = plots.margins(found).axes[0].patches
    assert stairs.get_data().values.tolist() == [3, 5]


def test_each_way_of_choosing_is_a_curve_and_so_is_the_best_there_is() -> None:
    choices = [
        Choice(
            n=n,
            prompts=4,
            kl=0.0,
            chosen=[
                Chosen(how="best", truth=figure(0.1 * n), score=None),
                Chosen(how="vote", truth=figure(0.05 * n), score=None),
            ],
            oracle=0.2 * n,
        )
        for n in (1, 2, 4)
    ]
    report = Selection(
        file="f",
        prompts=4,
        completions=16,
        truth="label",
        answer="number",
        unanswered=0,
        intervals="",
        subsets="",
        choices=choices,
    )
    drawn = plots.pictures(report)["selection.png"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn.axes[0].lines}
    assert lines["best"] == [[1, 0.1], [2, 0.2], [4, 0.4]]
    assert lines["vote"] == [[1, 0.05], [2, 0.1], [4, 0.2]]
    assert lines["the best there is"] == [[1, 0.2], [2, 0.4], [4, 0.8]]

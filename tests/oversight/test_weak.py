"""Weak supervisors and students: labels that say nothing of the truth, and the confidence loss in numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from truing.bus import Bus
from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, REJECTED, SCORES, SOFT, Batch
from truing.run import Run
from truing.testing import check_imports, check_spec
from truing_oversight.menu_weak import WeakLabels, WeakToStrong
from truing_oversight.weak import hardened

NOBODY: Any = None


def test_the_menu_is_light_and_keeps_its_promises() -> None:
    check_imports("truing_oversight.plugin")
    check_spec(WeakLabels)
    check_spec(WeakToStrong)


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(texts: list[list[str]], scores: list[float], **options: Any) -> Batch:
    group = torch.tensor([at for at, some in enumerate(texts) for _ in some])
    batch = Batch(
        {
            IDS: [f"prompt {at}" for at in range(len(texts))],
            COMPLETIONS: [text for some in texts for text in some],
            GROUP: group,
            SCORES: torch.tensor(scores),
        }
    )
    weak: Any = WeakLabels(**options).build(Run("test", Path(), 0, Bus()))
    return weak.estimate(batch)


def test_a_label_is_what_the_difference_of_scores_makes_likely() -> None:
    found = labelled([["yes", "no", "maybe"], ["same", "same"]], [2.0, 0.0, 1.0, 5.0, -5.0], temperature=2.0)
    assert found[IDS] == ["prompt 0"]
    said = {
        frozenset((one, other)): (one, round(soft, 5))
        for one, other, soft in zip(found[CHOSEN].tolist(), found[REJECTED].tolist(), found[SOFT].tolist(), strict=True)
    }
    scores = [2.0, 0.0, 1.0]
    assert said.keys() == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))}
    for pair, (first, soft) in said.items():
        (second,) = pair - {first}
        assert soft == pytest.approx(1 / (1 + math.exp(-(scores[first] - scores[second]) / 2)), abs=1e-5)


def test_which_completion_comes_first_says_nothing_of_which_is_better_and_not_where_it_stood() -> None:
    texts = [[f"right {at}", f"wrong {at}"] for at in range(400)]
    found = labelled(texts, [1.0, -1.0] * 400)
    turned = labelled([some[::-1] for some in texts], [-1.0, 1.0] * 400)
    first = [found[COMPLETIONS][at] for at in found[CHOSEN].tolist()]
    assert first == [turned[COMPLETIONS][at] for at in turned[CHOSEN].tolist()]
    assert 160 < sum(text.startswith("right") for text in first) < 240


# --- the loss ---------------------------------------------------------------------------------------------------------


def step(differences: list[float], weak: list[float]) -> Batch:
    count = len(differences)
    scores = torch.tensor([*differences, *([0.0] * count)], dtype=torch.float64).requires_grad_()
    places = torch.arange(count)
    return Batch({SCORES: scores, CHOSEN: places, REJECTED: places + count, SOFT: torch.tensor(weak)})


def expected(differences: list[float], targets: list[float]) -> float:
    return sum(
        -t * math.log(1 / (1 + math.exp(-d))) - (1 - t) * math.log(1 / (1 + math.exp(d)))
        for d, t in zip(differences, targets, strict=True)
    )


def test_the_target_moves_from_the_weak_label_to_the_students_own_mind_while_learning_begins() -> None:
    differences, weak = [1.0, 0.2, -0.5, -2.0], [0.2, 0.9, 0.6, 0.3]
    loss: Any = WeakToStrong(confidence=0.8, warmup=0.5).build(NOBODY)
    loss.memory.begin(8)
    for taken in range(6):
        batch, a = step(differences, weak), 0.8 * min(1.0, taken / 4)
        targets = [(1 - a) * w + a * own for w, own in zip(weak, [1.0, 1.0, 0.0, 0.0], strict=True)]
        value = loss(batch)
        assert float(value.terms["weak-to-strong"].total.detach()) == pytest.approx(
            expected(differences, targets), rel=1e-6
        )
        (slope,) = torch.autograd.grad(value.terms["weak-to-strong"].total, batch[SCORES])
        # No gradient passes through the target: what is left is the likelihood's.
        wanted = [1 / (1 + math.exp(-d)) - t for d, t in zip(differences, targets, strict=True)]
        assert slope[:4].tolist() == pytest.approx(wanted, rel=1e-5)
        assert float(value.metrics["agreement"].total) == 2.0
        loss(batch)  # a step that was stopped
        loss.memory.learned()
        kept = json.loads(json.dumps(loss.memory.kept()))
        loss = WeakToStrong(confidence=0.8, warmup=0.5).build(NOBODY)
        loss.memory.begin(8)
        loss.memory.restore(kept)


@pytest.mark.parametrize(("balance", "firsts"), [("half", 50), ("labels", 30)])
def test_a_student_that_prefers_all_that_come_first_must_still_choose_among_them(balance: Any, firsts: int) -> None:
    differences = torch.randn(100, generator=torch.Generator().manual_seed(0)) + 5
    share = 0.5 if balance == "half" else 0.3
    assert float(hardened(differences, share).sum()) == firsts
    loss: Any = WeakToStrong(confidence=1.0, warmup=0.0, balance=balance).build(NOBODY)
    loss.memory.begin(1)
    loss.memory.learned()
    batch = step(differences.tolist(), [0.3] * 100)
    (slope,) = torch.autograd.grad(loss(batch).terms["weak-to-strong"].total, batch[SCORES])
    assert int((slope[:100] < 0).sum()) == firsts

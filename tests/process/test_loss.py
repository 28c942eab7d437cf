"""The loss of steps against numbers worked by hand, its gradient, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.errors import UserError
from truing.fields import GROUP, STEP_LABELS, STEP_LOGITS, STEP_SCORES, STEP_SEQ, Batch
from truing_model.step import StepSums, with_ratios
from truing_reward.menu_steps import ProcessBce
from truing_reward.steps import process_bce, process_ce
from truing_tensor.testing import check_loss, made_up


def judged(scores: Sequence[float], labels: Sequence[float], seq: Sequence[int], count: int | None = None) -> Batch:
    return Batch(
        {
            STEP_SCORES: torch.tensor(scores, dtype=torch.float64).requires_grad_(),
            STEP_LABELS: torch.tensor(labels, dtype=torch.float32),
            STEP_SEQ: torch.tensor(seq),
            GROUP: torch.zeros(count or max(seq) + 1, dtype=torch.int64),
        }
    )


def reported(batch: Batch) -> dict[str, float]:
    sums = StepSums({"step": len(batch[STEP_SEQ]), "seq": len(batch[GROUP])})
    sums.look(process_bce, batch, Batch({STEP_SCORES: batch[STEP_SCORES].detach()}))
    return sums.report()


def test_the_loss_of_three_steps_is_the_number_worked_by_hand() -> None:
    # -log sigmoid(1) = 0.3132617, -log sigmoid(2) = 0.1269280; of the soft one 0.25 * 0.3132617 + 0.75 * 1.3132617.
    term = process_bce(judged([1.0, -2.0, 1.0], [1.0, 0.0, 0.25], [0, 0, 1])).terms["process-bce"]
    expected = 0.31326168751822286 + 0.12692801104297263 + 0.25 * 0.31326168751822286 + 0.75 * 1.3132616875182228
    assert float(term.total.detach()) == pytest.approx(expected, abs=1e-12)
    assert (term.per, term.weight) == ("step", 1.0)


numbers = st.floats(-20.0, 20.0)


@given(st.lists(st.tuples(numbers, st.floats(0.0, 1.0, width=32)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_its_gradient_is_the_probability_less_the_label(drawn: list[tuple[float, float]]) -> None:
    batch = judged([score for score, _ in drawn], [label for _, label in drawn], [0] * len(drawn))
    [found] = torch.autograd.grad(process_bce(batch).terms["process-bce"].total, batch[STEP_SCORES])
    expected = [1 / (1 + math.exp(-score)) - label for score, label in drawn]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_score_of_thousands_has_a_finite_loss() -> None:
    total = process_bce(judged([5000.0, -5000.0], [0.0, 1.0], [0, 0])).terms["process-bce"].total
    assert float(total.detach()) == 10000.0


def test_it_passes_the_checks_for_authors_of_losses() -> None:
    check_loss(ProcessBce())
    labels = made_up(ProcessBce().requires())[STEP_LABELS]
    assert bool(((labels > 0) & (labels < 1)).all())


def test_steps_are_right_or_wrong_as_their_labels_and_an_undecided_score_is_half_right() -> None:
    found = reported(judged([1.0, -1.0, -1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 0.5, 0.25], [0, 0, 0, 1, 1]))
    assert found["accuracy"] == pytest.approx((1 + 0 + 1 + 0.5 + 0) / 5)
    assert found["accuracy/right"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["accuracy/wrong"] == pytest.approx((1 + 0) / 2)
    assert found["label"] == pytest.approx(2.75 / 5)


def test_the_first_wrong_step_is_found_where_model_and_labels_name_the_same() -> None:
    scores = [[2, -1, -1], [-1, 2], [1, 1], [1, -1], [3]]
    labels = [[1, 0, 1], [1, 0], [1, 1], [1, 1], [0]]
    seq = [at for at, some in enumerate(scores) for _ in some]
    flat: list[Any] = [[value for some in each for value in some] for each in (scores, labels)]
    found = reported(judged(*flat, seq))
    # Found in the first; missed in the second and the last; the third is right and the fourth is suspected wrongly.
    assert found["first_error/erroneous"] == pytest.approx(1 / 3)
    assert found["first_error/correct"] == pytest.approx(1 / 2)
    assert found["first_error"] == pytest.approx(2 / 5)


def test_a_completion_without_judged_steps_counts_nowhere() -> None:
    whole, gap = (reported(judged([2.0, -1.0], [1.0, 0.0], [0, at], at + 1)) for at in (1, 2))
    for name in ("first_error", "first_error/erroneous", "first_error/correct"):
        assert whole[name] == pytest.approx(gap[name])


def test_what_is_reported_does_not_depend_on_how_the_step_is_cut() -> None:
    pieces = [
        judged([2.0, -1.0], [1.0, 0.0], [0, 0]),
        judged([2.0], [1.0], [0]),
        judged([-1.0, 1.0], [0.0, 0.0], [0, 1]),
    ]
    sums = StepSums({"step": 5, "seq": 4})
    for piece in pieces:
        sums.look(process_bce, piece, Batch({STEP_SCORES: piece[STEP_SCORES].detach()}))
    whole = reported(judged([2.0, -1.0, 2.0, -1.0, 1.0], [1.0, 0.0, 1.0, 0.0, 0.0], [0, 0, 1, 2, 3]))
    assert sums.report() == pytest.approx(whole)


def test_a_ratio_of_nothing_is_left_out() -> None:
    assert with_ratios({"x|of": 0.0, "x|among": 0.0, "y|of": 0.1, "y|among": 0.4, "z": 1.0}) == {"y": 0.25, "z": 1.0}


def in_classes(logits: Sequence[Sequence[float]], labels: Sequence[float]) -> Batch:
    return Batch(
        {
            STEP_LOGITS: torch.tensor(logits, dtype=torch.float64).requires_grad_(),
            STEP_LABELS: torch.tensor(labels, dtype=torch.float32),
            STEP_SEQ: torch.zeros(len(labels), dtype=torch.int64),
            GROUP: torch.zeros(1, dtype=torch.int64),
        }
    )


def test_the_loss_of_three_classes_is_the_number_worked_by_hand() -> None:
    # log(e^1 + e^2 + e^3) = 3.4076059644; of a wrong, a neutral and a right step less 1, 2 and 3.
    term = process_ce(in_classes([[1.0, 2.0, 3.0]] * 3, [0.0, 0.5, 1.0])).terms["process-ce"]
    assert float(term.total.detach()) == pytest.approx(3 * 3.4076059644443806 - 6.0, abs=1e-12)
    assert (term.per, term.weight) == ("step", 1.0)


def test_the_gradient_of_a_class_is_its_probability_less_its_share_of_the_label() -> None:
    batch = in_classes([[0.3, -1.0, 2.0], [4.0, 0.1, -0.2], [0.0, 0.0, 0.0]], [0.5, 0.0, 1.0])
    [found] = torch.autograd.grad(process_ce(batch).terms["process-ce"].total, batch[STEP_LOGITS])
    picked = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, batch[STEP_LOGITS].detach().softmax(1) - picked)


def test_of_three_classes_a_neutral_step_is_reported_as_right() -> None:
    batch = in_classes([[0.0, 2.0, -2.0], [0.0, -1.0, 0.4], [1.0, 0.9, 0.0]], [0.5, 0.0, 0.0])
    sums = StepSums({"step": 3, "seq": 1})
    sums.look(process_ce, batch, Batch({STEP_LOGITS: batch[STEP_LOGITS].detach()}))
    found = sums.report()
    # The second is taken for right though wrong is second; the third for wrong by its class, and for right by odds.
    assert found["accuracy/class"] == pytest.approx(2 / 3)
    assert found["accuracy/right"] == 1.0
    assert found["accuracy/wrong"] == 0.0


def test_a_label_between_the_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"the label 0\.25, not 0, 0\.5 or 1"):
        process_ce(in_classes([[0.0, 0.0, 0.0]] * 2, [1.0, 0.25]))

"""A student that learns from the labels of a weaker supervisor and outdoes it, on handwritten digits.

As in arXiv:2312.09390: the student knows digits from before (a network that learned the ten classes); of a new
question, whether a digit is odd or prime, it is told only what a weak supervisor believes, a logistic regression that
sees six random projections. Ceiling: the same student told the truth. An image is compared with nothing, whose score is
0, so a pair is a yes or no. The digits are those of scikit-learn (UCI, CC BY 4.0).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from truing.fields import CHOSEN, REJECTED, SCORES, SOFT, Batch
from truing_evaluate.intervals import resampled
from truing_evaluate.shapes import Figure
from truing_oversight.menu_weak import WeakToStrong

EPOCHS, SIZE, RATE, SEEDS = 8, 32, 1e-2, 5
TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "odd": lambda digit: digit % 2 == 1,
    "prime": lambda digit: torch.isin(digit, torch.tensor([2, 3, 5, 7])),
}


class Digits(NamedTuple):
    """Images [image, 64] and which digit each shows, in parts that share none."""

    known: tuple[Tensor, Tensor]
    of_weak: tuple[Tensor, Tensor]
    transfer: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]


def digits(seed: int) -> Digits:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, which has the digits, is not installed")
    images, shown = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(shown)[order]
    parts = [600, 120, 450, len(y) - 1170]
    return Digits(*zip(x.split(parts), y.split(parts), strict=True))


def student(known: tuple[Tensor, Tensor], from_scratch: bool) -> nn.Sequential:
    """A network that knows the ten digits, with a new head of one number."""
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    if not from_scratch:
        whole = nn.Sequential(body, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(whole.parameters(), lr=2e-3)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(whole(known[0]), known[1]).backward()
            optimizer.step()
    return nn.Sequential(body, nn.Linear(64, 1))


def taught(model: nn.Sequential, images: Tensor, labels: Tensor, epochs: int = EPOCHS, **options: Any) -> nn.Sequential:
    """The model once it has learned labels, probabilities [image], with the loss."""
    nobody: Any = None
    loss: Any = WeakToStrong(**options).build(nobody)
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    loss.memory.begin(epochs * (len(labels) // SIZE))
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for some in order.split(SIZE)[: len(labels) // SIZE]:
            scores = torch.cat([model(images[some])[:, 0], torch.zeros(len(some))])
            places = torch.arange(len(some))
            batch = Batch({SCORES: scores, CHOSEN: places, REJECTED: places + len(some), SOFT: labels[some]})
            optimizer.zero_grad()
            (loss(batch).terms["weak-to-strong"].total / len(some)).backward()
            optimizer.step()
            loss.memory.learned()
    return model


@torch.no_grad()
def right(model: nn.Module, images: Tensor, truth: Tensor) -> Tensor:
    return ((model(images)[:, 0] > 0) == truth).float()


def rights(task: str, seed: int) -> dict[str, Tensor]:
    """Whether each model is right of each held-out image."""
    torch.manual_seed(seed)
    parts, asks = digits(seed), TASKS[task]
    weak = nn.Sequential(nn.Linear(64, 6, bias=False), nn.Linear(6, 1))
    weak[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(weak[1].parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(
            weak(parts.of_weak[0])[:, 0], asks(parts.of_weak[1]).float()
        ).backward()
        optimizer.step()
    images, shown = parts.transfer
    with torch.no_grad():
        labels = weak(images)[:, 0].sigmoid()
    strong, fresh = student(parts.known, False), student(parts.known, True)
    models = {
        "weak": weak,
        "naive": taught(strong, images, labels, confidence=0.0),
        "confident": taught(strong, images, labels, confidence=0.75, balance="labels"),
        "from scratch": taught(fresh, images, labels, confidence=0.75, balance="labels"),
        "ceiling": taught(strong, images, asks(shown).float(), confidence=0.0),
    }
    truth = asks(parts.held[1])
    return {name: right(model, parts.held[0], truth) for name, model in models.items()}


@pytest.mark.parametrize("task", TASKS)
def test_a_student_outdoes_its_weak_supervisor_and_does_so_by_more_when_it_may_trust_itself(task: str) -> None:
    torch.set_num_threads(1)
    found = [rights(task, seed) for seed in range(SEEDS)]
    print(f"\n{task}: {', '.join(found[0])}, seed by seed")
    for each in found:
        print("  " + " ".join(f"{float(right.mean()):.3f}" for right in each.values()))
    recovered = {name: gap(found, name, "weak") for name in ("naive", "confident", "from scratch")}
    ahead = gap(found, "confident", "naive")
    for name, figure in {**recovered, "confident over naive": ahead}.items():
        print(f"  {name}: {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}] of the gap")
    assert recovered["confident"].low > 0
    assert ahead.low > 0
    assert all(each["confident"].mean() > each["naive"].mean() for each in found)


def gap(found: list[dict[str, Tensor]], some: str, other: str) -> Figure:
    """By how much of the gap between weak and ceiling one is ahead of the other, all seeds together; held-out images
    are drawn with replacement."""
    columns = [torch.cat([each[name] for each in found]).numpy() for name in (some, other, "ceiling", "weak")]
    sums = np.stack(columns, 1).astype(float)
    return resampled(sums, lambda drawn: (drawn[:, 0] - drawn[:, 1]) / (drawn[:, 2] - drawn[:, 3]))

"""The mixture of Bradley-Terry models finds planted people again, and remembers what it saw of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.pluralism.worlds import World, adjusted_rand, margins, teach, world

from truing.fields import ANNOTATOR, MEMBER_SCORES, STRATUM, Batch
from truing_model.step import StepSums, counts_of
from truing_pluralism.menu_losses import BradleyTerryMixture
from truing_pluralism.mixture import Mixture
from truing_tensor.groups import take


def learned(some: World, kinds: int, **options: Any) -> tuple[Mixture, dict[str, float], float]:
    """A mixture taught in a world; held-out accuracy by group, and the likelihood of held-out comparisons."""
    torch.manual_seed(0)
    heads = (0.01 * torch.randn(8, kinds)).requires_grad_()
    loss: Any = teach(
        some,
        BradleyTerryMixture(**options),
        lambda letters, batch: batch.put(MEMBER_SCORES, letters @ heads),
        [heads],
        epochs=8,
    )
    with torch.no_grad():
        held = some.held.put(MEMBER_SCORES, some.letters(some.held) @ heads)
        said = loss(held)
        sums = StepSums(counts_of(held))
        nll = float(said.metrics["nll"].total) / sums.counts["pair"]
    mixture: Mixture = loss.function
    held_by = torch.tensor([mixture.belongs(name, kinds) for name in some.held[ANNOTATOR]])
    probability = (held_by * margins(held[MEMBER_SCORES], held).sigmoid()).sum(1)
    return mixture, some.right(probability - 0.5), nll


def found(some: World, mixture: Mixture) -> float:
    """How well the kinds are the planted groups."""
    truth = dict(zip(some.learned[ANNOTATOR], some.learned[STRATUM], strict=True))
    kinds = [max(range(2), key=mixture.belongs(name, 2).__getitem__) for name in truth]
    return adjusted_rand(list(truth.values()), kinds)


def test_two_planted_groups_are_found_and_the_minority_is_served_as_it_is_not_by_one_model() -> None:
    some = world(each=15)
    mixture, right, nll = learned(some, kinds=2)
    _, alone, nll_alone = learned(some, kinds=1)
    assert found(some, mixture) > 0.9
    assert sorted(mixture.shares) == pytest.approx([0.3, 0.7], abs=0.02)
    assert alone["minority"] < 0.65 < 0.8 < right["minority"]
    assert right["majority"] > alone["majority"]
    assert nll < nll_alone - 0.1


def test_people_whose_comparisons_are_dealt_out_anew_are_of_no_kind() -> None:
    some = world(each=15, shuffled=True)
    mixture, right, _ = learned(some, kinds=2)
    assert abs(found(some, mixture)) < 0.2
    assert right["minority"] < 0.7


def step(seed: int) -> Batch:
    some = world(each=1, held=1, annotators=6)
    scores = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed))
    return some.learned.put(MEMBER_SCORES, scores.requires_grad_())


def made(**options: Any) -> Mixture:
    loss = Mixture(**{"soft": False, "warmup": 0.0, "hard": False, "prior": 1.0, "seed": 0, **options})
    loss.begin(4)
    return loss


def test_responsibilities_follow_from_all_that_was_compared_each_as_it_was_last_seen() -> None:
    loss = made()
    for seed in (0, 1):
        loss(step(seed))
        loss.learned()
    batch = step(1)
    likely = margins(batch[MEMBER_SCORES].detach(), batch).sigmoid().double()
    names = batch[ANNOTATOR]
    # In the second step kinds had the shares that the first had left behind.
    before = made()
    before(step(0))
    before.learned()
    posterior = likely * torch.tensor(before.shares)
    expected = posterior / posterior.sum(1, keepdim=True)
    told = loss.kept()["belongs"]
    torch.testing.assert_close(torch.tensor([told[name] for name in names]).double(), expected, rtol=1e-5, atol=1e-6)
    assert loss.shares == pytest.approx(((expected.sum(0) + 1) / (len(names) + 2)).tolist(), abs=1e-5)


def test_a_mixture_is_the_same_however_a_step_is_cut_and_after_a_resume() -> None:
    whole, cut, resumed = made(), made(), made()
    for seed in range(3):
        batch = step(seed)
        (slope,) = torch.autograd.grad(whole(batch).terms["mixture"].total, batch[MEMBER_SCORES])
        parts = torch.zeros_like(slope)
        for groups in ([0, 1], [2, 3, 4, 5]):
            piece = take(step(seed), groups)
            scores = piece[MEMBER_SCORES].detach().requires_grad_()
            value = cut(piece.put(MEMBER_SCORES, scores)).terms["mixture"].total
            (parts[[2 * at + side for at in groups for side in (0, 1)]],) = torch.autograd.grad(value, scores)
        torch.testing.assert_close(parts, slope)
        resumed(batch)
        for loss in (whole, cut, resumed):
            loss.learned()
        kept = json.loads(json.dumps(resumed.kept()))
        resumed = made()
        resumed.restore(kept)
    assert cut.kept() == whole.kept() == resumed.kept()


def test_looking_at_a_holdout_and_a_step_that_was_stopped_leave_nothing_behind() -> None:
    loss = made()
    loss(step(0))
    loss.learned()
    before = json.dumps(loss.kept())
    with torch.no_grad():
        loss(step(1).put(MEMBER_SCORES, step(1)[MEMBER_SCORES].detach()))
    loss(step(2))
    assert json.dumps(loss.kept()) == before


def test_a_hard_mixture_gives_everybody_to_one_kind() -> None:
    loss = made(hard=True)
    loss(step(0))
    loss.learned()
    assert all(sorted(each) == [0.0, 1.0] for each in loss.kept()["belongs"].values())

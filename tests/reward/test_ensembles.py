"""Ensembles of reward models: how they are put together, what is refused, and how the heads of one trunk differ."""

from __future__ import annotations

import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.model.conftest import pairs
from torch import Tensor

from truing.bus import Bus
from truing.collect import rows_of
from truing.errors import RunFailed, UserError
from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    MARGIN,
    MEMBER_SCORES,
    PROMPTS,
    REJECTED,
    SCORES,
    SCORES_STD,
    SEQ,
    SOFT,
    TOKENS,
    Batch,
    fields,
)
from truing.plugins import discover
from truing.recipe import read
from truing.run import Run
from truing.sampling import numbers_of
from truing.stage import ScorerSpec
from truing.testing import check_spec
from truing_model.plugin import AdamW, RewardEnsemble
from truing_reward.ensembles import bootstrap_counts, bradley_terry_ensemble, combined
from truing_reward.losses import bradley_terry
from truing_reward.menu_ensembles import BradleyTerryEnsemble, Ensemble
from truing_tensor.groups import batch_of, take

QUICK = settings(deadline=None, max_examples=60, database=None)
OBJECTIVES: dict[str, float | None] = {"mean": None, "wco": None, "uwo": 0.7, "lcb": 1.3}
PLAIN: dict[str, Any] = {"bootstrap": False, "seed": 0, "label_smoothing": 0.0, "soft": False, "margin": False}


class Said(ScorerSpec, frozen=True, kw_only=True):
    """Says the same of every completion, in a unit."""

    name: ClassVar[str] = "said"
    values: list[float]
    heads: bool = False
    of: str = ""

    def unit(self) -> str:
        return self.of

    def build(self, run: Run) -> Any:
        return self

    async def score(self, batch: Batch) -> Batch:
        said = torch.tensor([self.values] * len(batch[GROUP]))
        return batch.put_all({SCORES: said.mean(1), **({MEMBER_SCORES: said} if self.heads else {})})


def verdict(*members: ScorerSpec, **options: Any) -> Batch:
    batch = Batch({GROUP: torch.tensor([0, 0])})
    spec = Ensemble(members=list(members), **options)
    return anyio.run(partial(spec.build(Run("test", Path(), 0, Bus())).score, batch))


def test_every_objective_is_the_number_worked_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    # Of 1, 3, 2: mean 2, variance 2/3 over 3 and 1 over 2.
    found = {(name, ddof): combined(scores, name, OBJECTIVES[name], ddof) for name in OBJECTIVES for ddof in (0, 1)}  # pyright: ignore[reportArgumentType]
    expected = {("mean", 0): 2, ("wco", 0): 1, ("uwo", 0): 2 - 0.7 * 2 / 3, ("lcb", 0): 2 - 1.3 * math.sqrt(2 / 3)}
    expected |= {("mean", 1): 2, ("wco", 1): 1, ("uwo", 1): 2 - 0.7, ("lcb", 1): 2 - 1.3}
    assert {key: float(value[0][0]) for key, value in found.items()} == pytest.approx(expected, abs=1e-6)
    assert all(float(value[0][1]) == 5 and float(value[1][1]) == 0 for value in found.values())


@QUICK
@given(st.data(), st.integers(2, 6), st.integers(1, 5), st.integers(0, 1))
def test_the_worst_case_is_no_more_than_the_mean_and_a_penalty_of_nothing_is_the_mean(
    data: st.DataObject, members: int, count: int, ddof: int
) -> None:
    row = st.lists(st.floats(-50, 50, width=32), min_size=members, max_size=members)
    rows = data.draw(st.lists(row, min_size=count, max_size=count))
    scores = torch.tensor(rows)
    mean, deviation = combined(scores, "mean", None, ddof)
    assert bool((combined(scores, "wco", None, ddof)[0] <= mean).all())
    for name in ("uwo", "lcb"):
        assert torch.equal(combined(scores, name, 0.0, ddof)[0], mean)
        assert bool((combined(scores, name, 0.5, ddof)[0] <= mean).all())
    expected = [(statistics.stdev if ddof else statistics.pstdev)(row) for row in rows]
    assert deviation.tolist() == pytest.approx(expected, abs=1e-4)


def test_what_one_member_overrates_the_worst_case_does_not_choose() -> None:
    """Best of 256 by members that see the truth with some noise and, one time in fifty, a great reward of their own."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randn(200, 256, generator=random)
    overrated = 10 * (torch.rand(200, 256, 5, generator=random) < 0.02)
    members = truth[..., None] + 0.3 * torch.randn(200, 256, 5, generator=random) + overrated
    flat = members.reshape(-1, 5)
    found = {"one": flat[:, 0]} | {name: combined(flat, name, OBJECTIVES[name], 0)[0] for name in OBJECTIVES}  # pyright: ignore[reportArgumentType]
    chosen = {
        name: float(truth.gather(1, scores.reshape(200, 256).argmax(1, keepdim=True)).mean())
        for name, scores in found.items()
    }
    assert chosen["wco"] > 2.2 > chosen["mean"] > chosen["one"], chosen
    assert chosen["uwo"] > 2.2, chosen


@QUICK
@given(st.data(), st.integers(2, 6), st.integers(1, 5), st.sampled_from(sorted(OBJECTIVES)))
def test_neither_the_order_of_members_nor_that_of_completions_matters(
    data: st.DataObject, members: int, count: int, objective: Any
) -> None:
    row = st.lists(st.floats(-50, 50, width=32), min_size=members, max_size=members)
    scores = torch.tensor(data.draw(st.lists(row, min_size=count, max_size=count)))
    columns = data.draw(st.permutations(range(members)))
    rows = data.draw(st.permutations(range(count)))
    found = combined(scores, objective, OBJECTIVES[objective], 0)
    for one, other in zip(found, combined(scores[:, columns][rows], objective, OBJECTIVES[objective], 0), strict=True):
        assert torch.equal(one[rows], other)


def test_members_are_asked_and_one_with_several_heads_counts_as_many() -> None:
    found = verdict(Said(values=[4.0]), Said(values=[1.0, 7.0], heads=True), objective="mean")
    assert found[MEMBER_SCORES].tolist() == [[4.0, 1.0, 7.0]] * 2
    assert found[SCORES].tolist() == [4.0, 4.0]
    assert found[SCORES_STD].tolist() == pytest.approx([math.sqrt(6)] * 2)
    wave = found.put_all({COMPLETIONS: ["a", "b"], TOKENS: torch.tensor([1, 1])})
    assert numbers_of(wave)["score/disagreement"] == pytest.approx(math.sqrt(6))
    [row] = rows_of(wave.put_all({IDS: ["a"], PROMPTS: ["?"]}))
    assert row["member_scores"] == [[4.0, 1.0, 7.0]] * 2


@pytest.mark.parametrize(("penalty", "expected"), [(0.0, 4.0), (0.5, 3.5)])
def test_a_penalty_of_0_is_0_and_not_another_value(penalty: float, expected: float) -> None:
    two = (Said(values=[3.0], of="x"), Said(values=[5.0], of="x"))
    assert verdict(*two, objective="uwo", penalty=penalty)[SCORES].tolist() == [expected] * 2


def test_one_model_is_no_ensemble() -> None:
    with pytest.raises(RunFailed, match="an ensemble of one"):
        verdict(Said(values=[1.0], of="x"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"members": []}, "an ensemble of no scorers"),
        ({"objective": "uwo"}, "needs a penalty"),
        ({"objective": "lcb"}, "needs a penalty"),
        ({"penalty": 0.5}, "penalty has no effect"),
        ({"members": [Said(values=[1.0]), Said(values=[1.0])]}, "members that score in units of its own"),
        ({"members": [Said(values=[1.0], of="x"), Said(values=[1.0], of="y")]}, "score in x, y"),
        ({"members": [Ensemble(members=[Said(values=[1.0], of="x")])], "mixed_units": True}, "an ensemble in an"),
        ({"members": [Said(values=[1.0])], "mixed_units": True}, ""),
        ({"members": [Said(values=[1.0])], "objective": "mean"}, ""),
        ({"objective": "uwo", "penalty": 0.0}, ""),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    spec = Ensemble(**{"members": [Said(values=[1.0], of="x"), Said(values=[1.0], of="x")], **options})
    found = [fault.what for fault in spec.problems()]
    assert len(found) == bool(told), found
    assert all(told in what for what in found)


def test_the_menu_keeps_its_promises() -> None:
    check_spec(Ensemble, members=[])
    check_spec(BradleyTerryEnsemble)


RECIPE = """
[phase.reward.source]
use = "reasoning-gym"
pairs = true
{holdout}
[phase.reward.model]
use = "reward-model"
path = "organisation/model"
[phase.reward.optimizer]
use = "adamw"
[phase.reward.loss]
use = "bradley-terry"
[phase.collect.source]
use = "reasoning-gym"
[phase.collect.model]
use = "scratch-lm"
[phase.collect.scorer]
use = "ensemble"
[[phase.collect.scorer.members]]
use = "reward-model"
path = "@reward"
scale = "normalised"
"""


def test_a_scale_that_will_not_be_there_is_told_before_anything_is_trained() -> None:
    plugins = discover()
    text = RECIPE.format(holdout="")
    with pytest.raises(UserError) as error:
        read(text, "r.toml", plugins)
    [problem] = error.value.problems
    line = text.splitlines().index('path = "@reward"') + 1
    assert problem.where == f"r.toml:{line}"
    assert problem.what == 'scorer "reward-model" reads `scale`, which "reward" does not provide'
    assert '[model] use = "reward-model" that learned beside a [holdout]' in problem.mend
    holdout = '[phase.reward.holdout]\nuse = "reasoning-gym"\npairs = true\nskip = 512\n'
    read(RECIPE.format(holdout=holdout), "r.toml", plugins)


# The loss of heads


def compared(scores: Tensor) -> Batch:
    """Three groups of two completions, a pair in each; scores [seq, member]."""
    return Batch(
        {
            IDS: ["a", "b", "c"],
            GROUP: torch.tensor([0, 0, 1, 1, 2, 2]),
            SEQ: torch.tensor([0, 1, 2, 3, 4, 5]),
            CHOSEN: torch.tensor([0, 3, 4]),
            REJECTED: torch.tensor([1, 2, 5]),
            MARGIN: torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64),
            SOFT: torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64),
            MEMBER_SCORES: scores,
        }
    )


def drawn(members: int = 3) -> Tensor:
    return torch.randn(6, members, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"soft": True}, {"margin": True}])
def test_without_samples_it_is_the_mean_of_each_members_bradley_terry(options: dict[str, Any]) -> None:
    batch = compared(drawn())
    value = bradley_terry_ensemble(batch, **{**PLAIN, **options})
    one: dict[str, Any] = {"label_smoothing": 0.0, "soft": False, "margin": False, "center": 0.0, "per": "pair"}
    each = [bradley_terry(batch.put(SCORES, scores), **{**one, **options}) for scores in batch[MEMBER_SCORES].unbind(1)]
    total = torch.stack([member.terms["bradley-terry"].total for member in each]).mean()
    torch.testing.assert_close(value.terms["bradley-terry"].total, total)
    assert value.terms["bradley-terry"].per == "pair"
    right = torch.stack([member.metrics["accuracy"].total for member in each]).mean()
    torch.testing.assert_close(value.metrics["members/accuracy"].total, right)
    whole = bradley_terry(batch.put(SCORES, batch[MEMBER_SCORES].mean(1)), **{**one, **options}).metrics
    for name in ("accuracy", "margin", "nll", "reward/chosen"):
        torch.testing.assert_close(value.metrics[name].total, whole[name].total)


def test_a_member_learns_from_a_prompt_as_often_as_its_sample_has_it() -> None:
    names, members = ["a", "b", "c"], 6
    counts = bootstrap_counts(names, members, 3)
    assert {0, 1, 2} <= set(counts.flatten().tolist())
    scores = drawn(members).requires_grad_()
    plain, weighted = (
        torch.autograd.grad(
            bradley_terry_ensemble(compared(scores), **{**PLAIN, "bootstrap": on, "seed": 3})
            .terms["bradley-terry"]
            .total,
            [scores],
        )[0]
        for on in (False, True)
    )
    torch.testing.assert_close(weighted, plain * counts[compared(scores)[GROUP]])
    assert bool((plain != 0).all())


def test_a_step_that_is_cut_has_the_same_sums() -> None:
    batch = compared(drawn())
    options = {**PLAIN, "bootstrap": True, "seed": 5}
    whole = bradley_terry_ensemble(batch, **options)
    pieces = [bradley_terry_ensemble(take(batch, groups), **options) for groups in ([2], [0, 1])]
    for part in ("terms", "metrics"):
        for name, term in getattr(whole, part).items():
            parts = torch.stack([getattr(piece, part)[name].total for piece in pieces]).sum()
            torch.testing.assert_close(parts, term.total, msg=name)


def test_heads_that_begin_alike_come_apart_by_their_samples_and_stay_together_without(
    llama: Path, tmp_path: Path
) -> None:
    run = Run("test", tmp_path, 0, Bus(), wanted=fields(MEMBER_SCORES))
    apart: dict[bool, float] = {}
    for on in (False, True):
        model: Any = RewardEnsemble(path=str(llama), heads=3, dtype="fp32", device="cpu").build(run)
        with torch.no_grad():
            model.network.base.score.weight.copy_(model.network.base.score.weight[:1].expand(3, -1))
        batch = model.encode(batch_of(pairs())).batch
        model.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 3)
        loss = BradleyTerryEnsemble(bootstrap=on).build(run)
        metrics = [model.learn(batch, loss) for _ in range(3)][-1]
        apart[on] = float(model.scores(batch).std(1, correction=0).max())
        assert metrics["members/deviation"] == pytest.approx(0, abs=1e-6) or on
    assert apart[False] < 1e-6 < 1e-3 < apart[True]


def test_samples_are_poisson_of_mean_1_another_for_every_member_and_seed() -> None:
    names = [f"group {at}" for at in range(4000)]
    counts = bootstrap_counts(names, 2, 0)
    share = [float((counts == value).float().mean()) for value in range(4)]
    assert share == pytest.approx([math.exp(-1) / math.factorial(value) for value in range(4)], abs=0.02)
    assert abs(float(torch.corrcoef(counts.T.float())[0, 1])) < 0.05
    other = bootstrap_counts(names, 2, 1)
    assert abs(float(torch.corrcoef(torch.stack([counts[:, 0], other[:, 0]]).float())[0, 1])) < 0.05
    assert torch.equal(bootstrap_counts(names[7:9], 2, 0), counts[7:9])

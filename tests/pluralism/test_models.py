"""Reward models of people who do not agree: who has which taste, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from tests.model.conftest import pairs, write_family

from truing.bus import Bus
from truing.errors import RunFailed, UserError
from truing.fields import (
    ANNOTATOR,
    CHOSEN,
    MEMBER_SCORES,
    NORMAL_SCORES,
    REJECTED,
    SCORE_PARTS,
    SCORES,
    SCORES_STD,
    TASTES,
    TRAITS,
    Batch,
)
from truing.run import Run
from truing_model.menu_plural import ConditionedRewardModel, ConditionedScorer, DistributionScorer, RewardDistribution
from truing_model.plugin import AdamW, RewardScorer
from truing_model.state import trainable
from truing_pluralism.menu_losses import BradleyTerryConditioned, BradleyTerryNormal
from truing_tensor.groups import batch_of, take

CPU: dict[str, Any] = {"dtype": "fp32", "device": "cpu"}
NOBODY: Any = None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("test", tmp_path, 0, Bus())


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    write_family("llama", folder)
    return str(folder)


def compared(model: Any) -> Batch:
    """Six pairs of five prompts, compared by ann, ben, and cy."""
    batch = model.encode(batch_of(pairs())).batch
    return batch.put(ANNOTATOR, ["ann", "ben", "cy", "ann", "ben", "ben"])


def conditioned(path: str, run: Run, **options: Any) -> Any:
    spec = ConditionedRewardModel(path=path, by="annotator", **{"traits": 2, "people": 8, **CPU, **options})
    return spec.build(run)


def taught(model: Any, batch: Batch, loss: Any, steps: int = 3) -> None:
    model.attach(AdamW(lr=1e-2, warmup=0.0).build(model.run), 10)
    for _ in range(steps):
        model.learn(batch, loss)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_scorer_says_what_the_model_learned_of_each_person_and_of_strangers_what_all_share(
    rank: int, llama: str, run: Run, tmp_path: Path
) -> None:
    model = conditioned(llama, run, lora_rank=rank)
    batch = compared(model)
    taught(model, batch, BradleyTerryConditioned().build(NOBODY))
    given = model._look(model._seated(batch.put(ANNOTATOR, ["ann", "ben", "cy", "nobody", "ben", "ann"])))
    assert given[TASTES][3].tolist() == [1.0, 0.0, 0.0]
    assert bool((given[TASTES][:3, 1:] != 0).all())
    model.export(tmp_path / "made")
    scorer: Any = ConditionedScorer(path=str(tmp_path / "made"), people=["cy", "ann"], **CPU).build(run)
    scored = anyio.run(scorer.score, batch)
    expected = given[TRAITS] @ given[TASTES][[2, 0]].T
    torch.testing.assert_close(scored[MEMBER_SCORES], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scored[SCORES], expected.mean(1), rtol=1e-4, atol=1e-5)
    assert scored[SCORE_PARTS][0].keys() == {"cy", "ann"}
    for wrong, message in (
        (ConditionedScorer(path=str(tmp_path / "made"), people=["dora"], **CPU), 'nobody called "dora"'),
        (ConditionedScorer(path=llama, **CPU), "it is no conditioned-reward-model"),
        (RewardScorer(path=str(tmp_path / "made"), **CPU), "it is a conditioned-reward-model"),
    ):
        with pytest.raises(UserError, match=message):
            wrong.build(run)


def test_a_step_teaches_the_same_however_it_is_cut_and_nobody_who_did_not_compare(llama: str, run: Run) -> None:
    found: list[torch.Tensor] = []
    for budget in (150, 10_000):
        model = conditioned(llama, run, micro_tokens=budget)
        batch = compared(model)
        assert (len(model._cut(batch).batches) > 1) == (budget == 150)
        with torch.no_grad():
            model.network.heads["tastes"].weight.fill_(0.3)
        model.attach(AdamW(lr=0.0).build(run), 1)
        model.learn(batch, BradleyTerryConditioned().build(NOBODY))
        found.append(torch.cat([value.grad.flatten().clone() for value in trainable(model.network).values()]))
        assert model.network.heads["tastes"].weight.grad[3:].abs().sum() == 0
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()


def test_people_keep_their_tastes_through_a_resume(llama: str, run: Run, tmp_path: Path) -> None:
    loss = BradleyTerryConditioned().build(NOBODY)
    straight, broken, again = (conditioned(llama, run) for _ in range(3))
    batch = compared(straight)
    later = take(batch, [1, 2, 4])
    taught(straight, batch, loss)
    straight.learn(later, loss)
    taught(broken, batch, loss)
    broken.checkpoint(tmp_path)
    again.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 10)
    again.restore(tmp_path)
    again.learn(later, loss)
    assert again.seats == straight.seats == {"ann": 0, "ben": 1, "cy": 2}
    for one, other in zip(again.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_more_people_than_rows_end_a_run_in_words(llama: str, run: Run) -> None:
    model = conditioned(llama, run, people=2)
    with pytest.raises(RunFailed, match="more than 2 people compared"):
        taught(model, compared(model), BradleyTerryConditioned().build(NOBODY))


def test_a_distribution_gives_a_mean_a_deviation_and_the_quantile_that_is_asked_for(
    llama: str, run: Run, tmp_path: Path
) -> None:
    model: Any = RewardDistribution(path=llama, **CPU).build(run)
    batch = model.encode(batch_of(pairs())).batch
    taught(model, batch, BradleyTerryNormal().build(NOBODY))
    mean = model._look(batch)[NORMAL_SCORES][:, 0]
    assert float((mean[batch[CHOSEN]] - mean[batch[REJECTED]]).mean()) > 0
    model.export(tmp_path / "made")

    def scored(quantile: float | None) -> Batch:
        scorer: Any = DistributionScorer(path=str(tmp_path / "made"), quantile=quantile, **CPU).build(run)
        return anyio.run(scorer.score, batch)

    torch.testing.assert_close(scored(None)[SCORES], mean, rtol=1e-4, atol=1e-5)
    careful = scored(0.01)
    assert bool((careful[SCORES_STD] > 0).all())
    torch.testing.assert_close(careful[SCORES], mean - 2.326348 * careful[SCORES_STD], rtol=1e-4, atol=1e-4)

"""One trunk for the four models of PPO: what is frozen and equal is held once, and stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from torch import Tensor, nn

from truing.errors import UserError
from truing.fields import SCORES, Batch
from truing.run import Run
from truing_model.menu_policy import Policy
from truing_model.plugin import AdamW, CausalLm, RewardModel, RewardScorer
from truing_preference.menu_pairs import Dpo
from truing_reward.menu_losses import BradleyTerry
from truing_tensor.groups import batch_of

from .conftest import pairs

PLAIN = {"dtype": "fp32", "device": "cpu"}


@pytest.fixture
def folder(family_folder: Any) -> str:
    return str(family_folder("qwen2"))


@pytest.fixture
def reward(folder: str, run: Run, tmp_path: Path) -> str:
    """A reward model that learned a step through LoRA from the model of the folder."""
    return learned(RewardModel(path=folder, lora_rank=4, **PLAIN), BradleyTerry(), run, tmp_path / "reward")


def learned(spec: Any, loss: Any, run: Run, place: Path) -> str:
    model = spec.build(run)
    model.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 2)
    batch = model.encode(batch_of(pairs())).batch
    for _ in range(2):
        model.learn(model.annotate(batch, loss.requires()), loss.build(run))
    place.mkdir(exist_ok=True)
    model.export(place)
    return str(place)


def scores(scorer: Any, batch: Batch) -> Tensor:
    return anyio.run(scorer.score, batch)[SCORES]


def held(*models: nn.Module) -> int:
    """Bytes of the weights of several models, what they share counted once."""
    found = {value.data_ptr(): value.numel() * value.element_size() for each in models for value in each.parameters()}
    return sum(found.values())


def test_through_its_adapter_a_reward_model_scores_as_it_does_as_a_whole(folder: str, reward: str, run: Run) -> None:
    batch = CausalLm(path=folder, **PLAIN).build(run).encode(batch_of(pairs())).batch
    whole = scores(RewardScorer(path=reward, **PLAIN).build(run), batch)
    torch.testing.assert_close(
        scores(RewardScorer(path=reward, trunk=folder, **PLAIN).build(run), batch), whole, rtol=0, atol=1e-5
    )
    assert whole.std() > 1e-3


def four(folder: str, reward: str, run: Run, trunk: str) -> tuple[Any, Any]:
    critic = RewardModel(path=folder, lora_rank=4, **PLAIN)
    policy: Any = Policy(path=folder, lora_rank=4, critic=critic, **PLAIN).build(run)
    return policy, RewardScorer(path=reward, trunk=trunk, **PLAIN).build(run)


def test_policy_reference_critic_and_reward_model_hold_the_weights_of_one_model(
    folder: str, reward: str, run: Run
) -> None:
    policy, scorer = four(folder, reward, run, folder)
    one = held(CausalLm(path=folder, **PLAIN).build(run).network)
    adapters = sum(
        value.numel() * value.element_size()
        for model in (policy.network, scorer._model.network)
        for name, value in model.named_parameters()
        if "lora_" in name or "score" in name
    )
    assert held(policy.network, scorer._model.network) == one + adapters
    apart = four(folder, reward, run, "")
    assert held(apart[0].network, apart[1]._model.network) > 1.9 * one


def test_what_one_of_them_learns_or_merges_changes_none_of_the_others(
    folder: str, reward: str, run: Run, tmp_path: Path
) -> None:
    policy, scorer = four(folder, reward, run, folder)
    batch = policy.encode(batch_of(pairs())).batch
    before, reference = scores(scorer, batch), policy._ask_anew(batch)
    policy.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 1)
    policy.learn(policy.annotate(batch, Dpo().requires()), Dpo().build(run))
    assert torch.equal(scores(scorer, batch), before)
    assert torch.equal(policy._ask_anew(batch), reference)
    values = policy._critic.network(batch)
    (tmp_path / "out").mkdir()
    policy.export(tmp_path / "out")
    assert torch.equal(scores(scorer, batch), before)
    for key, value in policy._critic.network(batch).items():
        assert torch.equal(value, values[key])


def test_a_reward_model_without_an_adapter_has_no_trunk(folder: str, run: Run, tmp_path: Path) -> None:
    whole = learned(RewardModel(path=folder, **PLAIN), BradleyTerry(), run, tmp_path / "whole")
    with pytest.raises(UserError, match="it has no adapter/"):
        RewardScorer(path=whole, trunk=folder, **PLAIN).build(run)

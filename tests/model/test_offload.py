"""Weights that are on their device only while they are used: no number changes, and at rest they take no memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from torch import Tensor, nn

from truing.bus import Bus
from truing.fields import ADVANTAGES, GROUP, LOGPROBS_REF, SCORES, VERSION
from truing.run import Run
from truing_model import causal, offload
from truing_model.menu_parallel import Parallel
from truing_model.menu_policy import Policy
from truing_model.plugin import AdamW, CausalLm, RewardModel, RewardScorer, ScratchLm
from truing_model.scratch import write_scratch
from truing_policy.plugin import Gae, Ppo
from truing_tensor.groups import batch_of

from .conftest import pairs

PLAIN: dict[str, Any] = {"dtype": "fp32", "device": "cpu"}


class Pretended(offload.Offload):
    """Offload of a GPU that is not there: what is brought to it is a copy. brought: how many tensors were."""

    brought = 0

    def __init__(self, network: nn.Module, device: torch.device, folder: Path) -> None:
        super().__init__(network, torch.device("cuda"), folder)

    def _brought(self, value: Tensor) -> Tensor:
        Pretended.brought += 1
        return value.clone()


@pytest.fixture(params=["file", "host"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where weights rest: those of a CPU, and those of a GPU."""
    if request.param == "host":
        monkeypatch.setattr(causal, "Offload", Pretended)
        monkeypatch.setattr(Pretended, "brought", 0)
    return request.param


@pytest.fixture
def folder(tmp_path: Path, run: Run) -> str:
    """A reward model with a head that says something."""
    write_scratch(tmp_path / "scratch", ScratchLm(width=32), 0)
    made: Any = RewardModel(path=str(tmp_path / "scratch"), **PLAIN).build(run)
    made.export(tmp_path / "reward")
    return str(tmp_path / "reward")


def aligned(network: nn.Module) -> None:
    """Put weights where torch would: loaded ones begin wherever their file has them, and products round by that."""
    for value in network.parameters():
        value.data = value.data.clone()


def ppo(folder: str, place: Path, away: bool) -> list[Tensor]:
    """All numbers of two batches of PPO with four models, and of a third that another process goes on with."""
    run = Run("test", place, 0, Bus(), wanted=Ppo().requires())
    critic = RewardModel(path=folder, offload=away, **PLAIN)
    spec = Policy(
        path=folder, offload=away, reference_offload=away, critic=critic, passes=2, advantage=Gae(kl=0.1), **PLAIN
    )
    scorer: Any = RewardScorer(path=folder, offload=away, **PLAIN).build(run)
    if not away:
        aligned(scorer._model.network)
    found: list[Tensor] = []
    place.mkdir(exist_ok=True)
    for wave in range(3):
        if wave in (0, 2):
            policy: Any = spec.build(run)
            if not away:
                aligned(policy.network)
                aligned(policy.reference)
            policy.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 3)
        if wave == 2:
            policy.restore(place)
        batch = policy.encode(batch_of(pairs())).batch
        batch = anyio.run(scorer.score, batch.put(VERSION, torch.zeros(len(batch[GROUP]), dtype=torch.int64)))
        batch = policy.annotate(batch, Ppo().requires())
        policy.learn(batch, Ppo().build(run))
        policy.checkpoint(place)
        weights = [value.clone() for _, value in policy.weights().tensors()]
        found += [batch[SCORES], batch[LOGPROBS_REF], batch[ADVANTAGES], *weights]
    return [*found, *(value.detach().clone() for value in policy.network.parameters())]


def test_four_models_of_ppo_that_are_offloaded_say_and_learn_the_same_to_the_last_bit(
    place: str, folder: str, tmp_path: Path
) -> None:
    here, away = ppo(folder, tmp_path / "here", False), ppo(folder, tmp_path / "away", True)
    assert all(map(torch.equal, here, away))
    assert not torch.equal(away[-1], away[-1] * 0)
    assert place == "file" or Pretended.brought > 100


def test_weights_are_on_the_device_only_while_they_are_used(folder: str, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(causal, "Offload", Pretended)
    model: Any = CausalLm(path=folder, offload=True, **PLAIN).build(run)
    weights = list(model.network.parameters())
    at_rest = [value.data_ptr() for value in weights]
    with model._as("model"), model._as("model"):
        assert not set(at_rest) & {value.data_ptr() for value in weights}
    assert [value.data_ptr() for value in weights] == at_rest


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux which pages are in memory")
def test_at_rest_no_page_of_a_model_is_in_memory_and_in_use_all_are(run: Run, tmp_path: Path) -> None:
    write_scratch(tmp_path / "scratch", ScratchLm(width=256, layers=4), 0)
    model: Any = CausalLm(path=str(tmp_path / "scratch"), offload=True, **PLAIN).build(run)
    size = sum(value.nbytes for value in model.network.parameters())
    assert resident(run.phase_folder) == 0
    with model._as("model"):
        model._look(model.encode(batch_of(pairs())).batch)
        assert resident(run.phase_folder) > 0.9 * size
    assert resident(run.phase_folder) == 0


def resident(folder: Path) -> int:
    """Bytes of files in a folder that are mapped and in memory."""
    found, of_folder = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            of_folder = f"{folder}/" in line
        elif of_folder and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


def test_each_of_the_four_models_is_where_the_recipe_places_it_and_says_the_same(folder: str, tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "tests.model.elsewhere", folder, str(tmp_path)]
    told = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert float(told.splitlines()[-1]) < 1e-5


def test_what_has_no_copy_of_its_own_cannot_be_offloaded() -> None:
    several = CausalLm(path="x", offload=True, parallel=Parallel(processes=2))
    adapter = CausalLm(path="x", lora_rank=4, reference_offload=True)
    trunk = RewardScorer(path="x", trunk="y", offload=True)
    for spec, option in ((several, "offload"), (adapter, "reference_offload"), (trunk, "offload")):
        assert option in {fault.option for fault in spec.problems()}

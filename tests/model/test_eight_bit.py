"""An optimizer of eight bits: it moves as AdamW does, in a quarter of the memory, and goes on from a checkpoint."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.model.conftest import pairs

from truing.fields import Batch
from truing.run import Run
from truing_model.plugin import AdamW, ScratchLm
from truing_model.state import trainable
from truing_policy.losses import sft
from truing_tensor.groups import batch_of

needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="torchao is not installed: pip install 'truing[eight-bit]'"
)


def attached(run: Run, bits: Any, warmup: float = 0.3, offload: bool = False) -> tuple[Any, Batch]:
    """A model that is about to learn eight steps, and what from."""
    model: Any = ScratchLm(width=64, layers=1, heads=2, dtype="fp32", device="cpu", offload=offload).build(run)
    given: dict[str, Any] = {"lr": 1e-2, "schedule": "cosine", "warmup": warmup, "weight_decay": 0.1}
    model.attach(AdamW(bits=bits, **given).build(run), 8)
    return model, model.encode(batch_of(pairs())).batch


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in trainable(model.network).values()])


@needs_torchao
def test_eight_bits_move_the_weights_as_thirty_two_do(run: Run) -> None:
    (fine, batch), (coarse, _) = (attached(run, bits, warmup=0.0) for bits in (32, 8))
    before = weights(fine)
    apart: list[float] = []
    for _ in range(8):
        reports = [model.learn(batch, sft) for model in (fine, coarse)]
        assert reports[0]["learning_rate"] == reports[1]["learning_rate"]
        apart.append(float((weights(fine) - weights(coarse)).norm() / (weights(fine) - before).norm().clamp(min=1e-9)))
    # The first step is taken before anything is rounded.
    print(apart)
    assert apart[0] < 1e-5 < apart[-1] < 0.1
    assert reports[1]["loss"] == pytest.approx(reports[0]["loss"], rel=0.02)


@needs_torchao
def test_eight_bits_go_on_from_a_checkpoint_bit_for_bit_and_are_a_quarter_of_it(run: Run, tmp_path: Path) -> None:
    sizes: dict[int, int] = {}
    for bits in (32, 8):
        (whole, batch), (resumed, _) = attached(run, bits), attached(run, bits)
        for _ in range(3):
            whole.learn(batch, sft)
        folder = tmp_path / str(bits)
        folder.mkdir()
        whole.checkpoint(folder)
        resumed.restore(folder)
        assert [whole.learn(batch, sft) for _ in range(3)] == [resumed.learn(batch, sft) for _ in range(3)]
        assert torch.equal(weights(whole), weights(resumed))
        files = [load_file(file) for file in folder.glob("optimizer.*")]
        sizes[bits] = sum(value.nbytes for file in files for value in file.values())
    assert sizes[8] < 0.27 * sizes[32]


@needs_torchao
def test_what_rests_elsewhere_between_steps_is_the_same(run: Run) -> None:
    found: list[torch.Tensor] = []
    for offload in (False, True):
        model, batch = attached(run, 8, offload=offload)
        for _ in range(3):
            model.learn(batch, sft)
        with model._as("model"):
            found.append(weights(model))
    assert torch.allclose(*found, atol=1e-6)


def test_eight_bits_without_torchao_name_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing_model.plugin.find_spec", lambda name: None)
    (fault,) = AdamW(bits=8).problems()
    assert fault.option == "bits"
    assert "truing[eight-bit]" in str(fault)
    assert not list(AdamW().problems())

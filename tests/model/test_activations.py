"""What layers keep may wait elsewhere between a pass and its gradients: all but weights, and it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.conftest import pairs
from torch import nn

from truing.errors import UserError
from truing.run import Run
from truing_model.activations import Away
from truing_model.plugin import AdamW, ScratchLm
from truing_model.state import trainable
from truing_policy.losses import sft
from truing_tensor.groups import batch_of


class Watched(Away):
    """As it is on a GPU, but for where things wait. Counts what goes away."""

    def __init__(self, went: list[torch.Tensor]) -> None:
        super().__init__(pinned=False)
        away = self.pack_hook

        def watched(value: torch.Tensor) -> Any:
            kept = away(value)
            if kept is not value:
                went.append(value)
            return kept

        self.pack_hook = watched


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rank", [0, 4])
def test_gradients_are_the_same_to_the_bit_and_weights_stay(rank: int, checkpointing: bool, run: Run) -> None:
    found: list[torch.Tensor] = []
    went: list[torch.Tensor] = []
    for offload in (False, True):
        shape: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "dtype": "bf16", "device": "cpu"}
        model = ScratchLm(**shape, gradient_checkpointing=checkpointing, lora_rank=rank).build(run)
        if offload:
            model.learner._keeping = lambda: Watched(went)
        model.attach(AdamW(lr=0.0).build(run), 1)
        model.learn(model.encode(batch_of(pairs(4))).batch, sft)
        found.append(torch.cat([value.grad.flatten() for value in trainable(model.network).values()]))
        own = {value.untyped_storage().data_ptr() for value in model.network.parameters()}
    assert torch.equal(*found)
    assert went
    assert not any(isinstance(value, nn.Parameter) or value.untyped_storage().data_ptr() in own for value in went)


def test_checkpointed_layers_send_less_away(run: Run) -> None:
    sizes: list[int] = []
    for checkpointing in (False, True):
        went: list[torch.Tensor] = []
        model = ScratchLm(width=32, layers=4, heads=2, device="cpu", gradient_checkpointing=checkpointing).build(run)
        model.learner._keeping = lambda went=went: Watched(went)
        model.attach(AdamW(lr=0.0).build(run), 1)
        model.learn(model.encode(batch_of(pairs(4))).batch, sft)
        sizes.append(sum(value.nbytes for value in went))
    assert 0 < sizes[1] < sizes[0] / 3


def test_where_there_is_no_gpu_it_is_refused_with_a_mend(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = ScratchLm(device="cpu", activation_offload=True).problems()
    assert "gradient_checkpointing" in str(fault)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU here"):
        ScratchLm(activation_offload=True).build(run)

"""What is dropped depends on where a token lies, and on nothing beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import pairs
from torch import nn

from truing.fields import LOGPROBS, SEQ, Batch, fields
from truing.run import Run
from truing.stage import DeclaredLoss, LossValue, Term
from truing_model.dropout import Placed, Places
from truing_model.plugin import AdamW, CausalLm
from truing_model.state import trainable
from truing_tensor.groups import batch_of


def likely(batch: Batch) -> LossValue:
    return LossValue({"nll": Term(-batch[LOGPROBS].sum(), "token")})


def of_firsts(batch: Batch) -> LossValue:
    """A loss of the whole step that leaves most completions alone."""
    first = batch[SEQ] % 3 == 0
    return LossValue({"nll": Term(-batch[LOGPROBS][first].square().sum(), "token")})


def step(folder: Path, run: Run, whole: bool, **options: Any) -> tuple[list[float], torch.Tensor]:
    """The norms of the gradients of two steps that move nothing, and the last gradient."""
    model = CausalLm(path=str(folder), dtype="fp32", device="cpu", **options).build(run)
    model.attach(AdamW(lr=0.0).build(run), 2)
    batch = model.encode(batch_of(pairs(6))).batch
    loss = DeclaredLoss(of_firsts, fields(LOGPROBS, SEQ), whole_step=True) if whole else likely
    told = [model.learn(batch, loss)["gradient_norm"] for _ in range(2)]
    return told, torch.cat([value.grad.flatten().clone() for value in trainable(model.network).values()])


@pytest.mark.parametrize("whole", [False, True], ids=["piece by piece", "the whole step"])
@pytest.mark.parametrize(
    ("family", "config", "options"),
    [
        ("llama", {}, {"lora_rank": 4, "lora_dropout": 0.4}),
        ("gpt2", {"resid_pdrop": 0.4, "embd_pdrop": 0.2}, {}),
        ("llama", {"attention_dropout": 0.4}, {"lora_rank": 4, "lora_dropout": 0.4}),
    ],
    ids=["layers of its own", "layers of transformers", "plain rows"],
)
def test_a_step_drops_the_same_however_it_is_cut_and_the_next_one_drops_anew(
    family: str, config: dict[str, Any], options: dict[str, Any], whole: bool, family_folder: Any, run: Run
) -> None:
    folder = run.folder / "drops"
    shutil.copytree(family_folder(family), folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    told, expected = step(folder, run, whole, micro_tokens=10_000, **options)
    assert abs(told[0] - told[1]) > 1e-3 * told[0]
    for more in ({"micro_tokens": 60}, {"micro_tokens": 150, "gradient_checkpointing": True}):
        again, found = step(folder, run, whole, **more, **options)
        assert again == pytest.approx(told, rel=1e-4)
        assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_a_mask_has_its_share_of_zeros_in_every_row_and_column_and_none_knows_of_another() -> None:
    rows, columns, share = 1024, 512, 0.3
    places = Places(torch.randint(-(2**31), 2**31, (rows,), generator=torch.Generator().manual_seed(0)).int())
    drawn: list[torch.Tensor] = []
    for number in (0, 1):
        part = nn.Dropout(share)
        part.__class__ = Placed
        part.places, part.number, part.asked = places, number, False
        drawn.append(part.train()(torch.ones(rows, columns)))
    kept = drawn[0] > 0
    assert torch.allclose(drawn[0][kept], torch.tensor(1 / (1 - share)))
    spread = (share * (1 - share)) ** 0.5
    scores = [((mask == 0).double() - share) / spread for mask in drawn]
    assert abs(float(scores[0].mean())) < 4 / (rows * columns) ** 0.5
    assert abs(float((scores[0] * scores[1]).mean())) < 4 / (rows * columns) ** 0.5
    for along in (scores[0], scores[0].T):
        correlations = along @ along.T / along.shape[1]
        between = correlations[~torch.eye(len(along), dtype=torch.bool)]
        assert float(between.std()) == pytest.approx(along.shape[1] ** -0.5, rel=0.05)
        assert float(between.abs().max()) < 7 * along.shape[1] ** -0.5

"""The same logits through TRL's own losses, where both define the same one.

They differ, and the docstrings of the losses say how, in the likelihood beside ORPO and CPO (TRL's takes in the prompt
and is a mean over tokens), and in BCO (TRL has no shift).
"""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from truing.fields import CHOSEN, COLLISION_ENTROPY, LABEL, LOGPROBS, LOGPROBS_REF, MISMATCHED, REJECTED, SEQ, Batch
from truing.stage import LossSpec
from truing_preference.plugin import (
    Aot,
    Apo,
    Cpo,
    Dpo,
    Exo,
    FDpo,
    HingeNorm,
    Ipo,
    Kto,
    Nca,
    Orpo,
    SimPo,
    Slic,
    Wpo,
)

from .conftest import built, objective

pytest.importorskip("trl", reason="compares with TRL, which only the extra `bench` installs")

BETA, VOCABULARY, IGNORED = 0.3, 11, -100
PROMPTS, ANSWERS = [3, 2, 4, 3, 2, 4], [4, 1, 3, 2, 5, 6]  # lengths of the chosen three, then of the rejected three


class Laid(NamedTuple):
    """Padded rows, as TRL has them: tokens, and which of them are the answer; and logits of two models."""

    tokens: Tensor
    answer: Tensor
    policy: Tensor
    reference: Tensor

    @property
    def labels(self) -> Tensor:
        return self.tokens.masked_fill(self.answer == 0, IGNORED)


def laid(prompts: list[int], answers: list[int], seed: int) -> Laid:
    chance = torch.Generator().manual_seed(seed)
    shape = (len(prompts), max(map(sum, zip(prompts, answers, strict=True))))
    place = torch.arange(shape[1])
    start, end = torch.tensor(prompts)[:, None], torch.tensor(prompts)[:, None] + torch.tensor(answers)[:, None]
    tokens = torch.randint(VOCABULARY, shape, generator=chance)
    policy, reference = (torch.randn(*shape, VOCABULARY, generator=chance) for _ in range(2))
    return Laid(tokens, ((place >= start) & (place < end)).long(), policy.requires_grad_(), reference)


def logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Of every label under the logits one place before it; 0 where there is none."""
    labels = labels[:, 1:]
    found = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return found * (labels != IGNORED)


def flat(some: Laid) -> Batch:
    """The same numbers as truing has them."""
    mask = some.answer[:, 1:].bool()
    return Batch(
        {
            LOGPROBS: logprobs(some.policy, some.labels)[mask],
            LOGPROBS_REF: logprobs(some.reference, some.labels)[mask],
            COLLISION_ENTROPY: -log_sum_of_squares(some.policy)[mask].detach(),
            SEQ: mask.nonzero()[:, 0],
        }
    )


def log_sum_of_squares(logits: Tensor) -> Tensor:
    """Of the probabilities under the logits one place before each token but the first."""
    return logits[:, :-1].softmax(-1).square().sum(-1).log()


class Given:
    """A model that has one answer for every input of a shape."""

    training = True

    def __init__(self, *logits: Tensor) -> None:
        self.logits = {tuple(some.shape[:2]): some for some in logits}

    def __call__(self, input_ids: Tensor, labels: Tensor, **others: Any) -> SimpleNamespace:
        logits = self.logits[tuple(input_ids.shape)]
        unused = torch.zeros(labels.shape[0], labels.shape[1] - 1)
        reports = {"entropy": unused, "mean_logits": unused, "log_sum_sq_probs": log_sum_of_squares(logits)}
        return SimpleNamespace(log_probs=logprobs(logits, labels), is_top1=unused.bool(), **reports)


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trainers of TRL by name, without what they do when they are made."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def trainer(where: str, name: str, **members: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = getattr(importlib.import_module(f"trl.{where}"), name)
        made = object.__new__(kind)
        alone: Any = {"gather": lambda value: value, "gather_for_metrics": lambda value: value}
        accelerator = SimpleNamespace(device=torch.device("cpu"), **alone)
        common = {"accelerator": accelerator, "aux_loss_enabled": False, "beta": BETA, "label_smoothing": 0.0}
        counted = {"_metrics": defaultdict(lambda: defaultdict(list)), "_total_train_tokens": 0, "_tp_size": 1}
        vars(made).update(common | counted | members)
        return made

    return trainer


def agree(spec: LossSpec, batch: Batch, logits: Tensor, theirs: Tensor) -> None:
    """Both losses and their gradients at the logits are the same."""
    ours = objective(built(spec)(batch), batch)
    (mine,) = torch.autograd.grad(ours, logits, retain_graph=True)
    (yours,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(ours, theirs.reshape(()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)


PAIRS: list[tuple[LossSpec, str, dict[str, Any]]] = [
    (Dpo(beta=BETA), "sigmoid", {}),
    (Dpo(beta=BETA, robust=True, label_smoothing=0.2), "robust", {"label_smoothing": 0.2}),
    (Dpo(beta=BETA, per_token=True), "sigmoid_norm", {}),
    (HingeNorm(beta=BETA), "hinge", {}),
    (Ipo(beta=BETA, per_token=True), "ipo", {}),
    (Exo(beta=BETA, label_smoothing=0.01), "exo_pair", {"label_smoothing": 0.01}),
    (Nca(beta=BETA), "nca_pair", {}),
    (Apo(beta=BETA), "apo_zero", {}),
    (Apo(beta=BETA, variant="down"), "apo_down", {}),
    (Wpo(beta=BETA), "sigmoid", {"use_weighting": True}),
    (Aot(beta=BETA), "aot", {}),
    (Aot(beta=BETA, unpaired=True, label_smoothing=0.1), "aot_unpaired", {"label_smoothing": 0.1}),
    (FDpo(beta=BETA, divergence="reverse-kl"), "sigmoid", {"f_divergence_type": "reverse_kl"}),
    (FDpo(beta=BETA, divergence="forward-kl"), "sigmoid", {"f_divergence_type": "forward_kl"}),
    (FDpo(beta=BETA, divergence="js"), "sigmoid", {"f_divergence_type": "js_divergence"}),
    (
        FDpo(beta=BETA, divergence="alpha", alpha=0.3),
        "sigmoid",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
]


@pytest.mark.parametrize(("spec", "kind", "members"), PAIRS, ids=[f"{spec.name}-{kind}" for spec, kind, _ in PAIRS])
def test_a_loss_on_pairs_is_trls(spec: LossSpec, kind: str, members: dict[str, Any], trl: Any) -> None:
    rows = laid(PROMPTS, ANSWERS, seed=0)
    common: dict[str, Any] = {
        "ld_alpha": None,
        "precompute_ref_logps": False,
        "use_weighting": False,
        "f_divergence_type": "reverse_kl",
        "loss_types": [kind],
        "loss_weights": [1.0],
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
    }
    policy = Given(rows.policy)
    trainer = trl(
        "trainer.dpo_trainer", "DPOTrainer", ref_model=Given(rows.reference), model=policy, **common | members
    )
    inputs = {"input_ids": rows.tokens, "completion_mask": rows.answer, "attention_mask": torch.ones_like(rows.tokens)}
    theirs = without_checkpointing(trainer, policy, inputs)
    pairs = {CHOSEN: torch.arange(3), REJECTED: torch.arange(3, 6)}
    agree(spec, flat(rows).put_all(pairs), rows.policy, theirs)


def test_kto_is_trls(trl: Any) -> None:
    rows, others = laid(PROMPTS, ANSWERS, seed=1), laid(PROMPTS, [2, 3, 1, 4, 2, 1], seed=7)
    label = torch.tensor([1, 0, 0, 1, 1, 0])
    policy = Given(rows.policy, others.policy)
    trainer = trl(
        "trainer.kto_trainer",
        "KTOTrainer",
        model=policy,
        ref_model=Given(rows.reference, others.reference),
        calculate_KL=True,
        precompute_ref_logps=False,
        loss_type="kto",
        desirable_weight=1.2,
        undesirable_weight=0.8,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    inputs = {
        "input_ids": rows.tokens,
        "completion_mask": rows.answer,
        "attention_mask": torch.ones_like(rows.tokens),
        "KL_input_ids": others.tokens,
        "KL_completion_mask": others.answer,
        "KL_attention_mask": torch.ones_like(others.tokens),
        "label": label.bool(),
    }
    theirs = without_checkpointing(trainer, policy, inputs)
    own, strangers = flat(rows), flat(others)
    batch = Batch(
        {
            LOGPROBS: torch.cat([own[LOGPROBS], strangers[LOGPROBS].detach()]),
            LOGPROBS_REF: torch.cat([own[LOGPROBS_REF], strangers[LOGPROBS_REF]]),
            SEQ: torch.cat([own[SEQ], strangers[SEQ] + 6]),
            LABEL: torch.cat([label, torch.zeros_like(label)]),
            MISMATCHED: torch.tensor([0] * 6 + [1] * 6),
        }
    )
    spec = Kto(beta=BETA, desirable_weight=1.2, undesirable_weight=0.8)
    value = built(spec)(batch)
    assert value.metrics["z0"].total > 0, "the seeds are such that the estimate is not cut at 0"
    agree(spec, batch, rows.policy, theirs)


def without_checkpointing(trainer: Any, policy: Given, inputs: dict[str, Tensor]) -> Tensor:
    """TRL's loss of a batch. What it does around gradient checkpointing is for models that have some."""
    module: Any = importlib.import_module(type(trainer).__module__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "disable_gradient_checkpointing", lambda *_: warnings.catch_warnings())
        patch.setattr(module, "is_peft_model", lambda _: False)
        return trainer._compute_loss(policy, inputs, False)


@pytest.mark.parametrize(
    ("spec", "average", "members"),
    [
        (Cpo(beta=BETA, sft_weight=0.0), False, {"loss_type": "sigmoid"}),
        (
            Cpo(beta=BETA, sft_weight=0.0, label_smoothing=0.1),
            False,
            {"loss_type": "sigmoid", "label_smoothing": 0.1},
        ),
        (SimPo(beta=2.0, gamma=0.7), True, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7}),
        (
            SimPo(beta=2.0, gamma=0.7, label_smoothing=0.1),
            True,
            {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.1},
        ),
        (Slic(delta=1.0, sft_weight=0.0), False, {"loss_type": "hinge", "beta": 1.0}),
    ],
    ids=["cpo", "cpo-smoothed", "simpo", "simpo-smoothed", "slic"],
)
def test_cpo_simpo_and_slic_are_trls(spec: LossSpec, average: bool, members: dict[str, Any], trl: Any) -> None:
    rows = laid(PROMPTS, ANSWERS, seed=3)
    trainer = trl("experimental.cpo", "CPOTrainer", alpha=0.0, **members)
    chosen, rejected = trainer.get_batch_logps(rows.policy, rows.labels, average_log_prob=average).chunk(2)
    theirs = trainer.cpo_loss(chosen, rejected)[0].mean()
    agree(spec, _free(rows), rows.policy, theirs)


def test_the_odds_ratio_of_orpo_is_trls(trl: Any) -> None:
    rows = laid(PROMPTS, ANSWERS, seed=4)
    trainer = trl("experimental.orpo", "ORPOTrainer")
    chosen, rejected = trainer.get_batch_logps(rows.policy, rows.labels, average_log_prob=True).chunk(2)
    theirs = -trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    agree(Orpo(odds_weight=BETA, sft_weight=0.0), _free(rows), rows.policy, theirs)


def _free(rows: Laid) -> Batch:
    """Pairs without a reference."""
    batch = flat(rows).put_all({CHOSEN: torch.arange(3), REJECTED: torch.arange(3, 6)})
    return Batch({key: value for key, value in batch.items() if key is not LOGPROBS_REF})

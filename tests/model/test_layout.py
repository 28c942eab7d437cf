"""Shared rows and plain rows are two ways to the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.model.conftest import FAMILIES, pairs
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from truing.errors import UserError
from truing.fields import GROUP, IDS, LOGPROBS, PROMPT_TOKENS, SEQ, TOKENS, VALUES, Batch, Field
from truing.run import Run
from truing_model.encode import with_tokens
from truing_model.forward import decoder_for
from truing_model.layout import (
    Costs,
    alike,
    balanced,
    cut_into_pieces,
    lengths_of,
    plain_rows,
    regrouped,
    shared_row,
)
from truing_model.plugin import CausalLm
from truing_tensor import products
from truing_tensor.groups import batch_of

COSTS = Costs(token=1000.0, pair=1.0, head=500.0)
LAYOUTS = ("shared", "plain")


def built(folder: Path, run: Run, **options: Any) -> Any:
    return CausalLm(path=str(folder), dtype="fp32", device="cpu", **options).build(run)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_the_same_in_shared_and_in_plain_rows(
    family: str, family_folder: Any, run: Run
) -> None:
    found: dict[str, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for layout in LAYOUTS:
        model = built(family_folder(family), run, layout=layout)
        batch = model.encode(batch_of(pairs())).batch
        logprobs = model.network(batch)[LOGPROBS]
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        found[layout] = logprobs.detach(), [p.grad.clone() for p in model.network.parameters() if p.grad is not None]
    torch.testing.assert_close(found["shared"][0], found["plain"][0], rtol=0, atol=1e-5)
    for shared, plain in zip(found["shared"][1], found["plain"][1], strict=True):
        assert (shared - plain).norm() <= 1e-4 * plain.norm() + 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_filled_up_for_the_faster_products_change_no_number(
    family: str, family_folder: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[torch.Tensor]] = []
    for rows in (10**6, 8):
        monkeypatch.setattr(products, "by_onednn", lambda: torch.backends.mkldnn.is_available())
        monkeypatch.setattr(products, "ROWS", rows)
        model = built(family_folder(family), run, value_head=True)
        batch = model.encode(batch_of(pairs())).batch
        outputs = model.network(batch)
        sum((value * torch.linspace(-1, 1, len(value))).sum() for value in outputs.values()).backward()
        grads = [p.grad.clone() for p in model.network.parameters() if p.grad is not None]
        found.append([outputs[LOGPROBS].detach(), outputs[VALUES].detach(), *grads])
    assert len(batch[TOKENS]) % 8
    for before, after in zip(*found, strict=True):
        assert (before - after).norm() <= 1e-5 * before.norm() + 1e-6


def test_log_probabilities_are_those_that_transformers_itself_computes(family_folder: Any, run: Run) -> None:
    model = built(family_folder("llama"), run)
    batch = model.encode(batch_of(pairs())).batch
    ours = model.network(batch)[LOGPROBS]
    expected: list[torch.Tensor] = []
    for row in plain_rows(batch):
        logits = model.network.model(input_ids=row.tokens[None]).logits[0, :-1].log_softmax(-1)
        picked = logits.gather(1, row.tokens[1:, None])[:, 0]
        expected.append(picked[-len(row.targets) :])
    torch.testing.assert_close(ours, torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_exact_in_a_shared_row_is_given_shared_rows(family: str, family_folder: Any, run: Run) -> None:
    model = built(family_folder(family), run)
    assert model.layout == "shared"
    assert model.own_layers is (family != "gpt2")


def test_rounding_in_bf16_does_not_hide_that_a_model_is_exact_in_a_shared_row() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=24, num_attention_heads=4, vocab_size=64
    )
    model = LlamaForCausalLM(config).bfloat16()
    for weight in model.parameters():
        weight.data *= 30
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    decoder = decoder_for(model, "shared", 64)
    assert decoder is not None
    assert decoder.own_layers
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, before[name])


def test_a_model_whose_attention_window_is_shorter_than_its_rows_is_given_plain_rows(
    family_folder: Any, run: Run
) -> None:
    model = built(family_folder("llama"), run).network.model
    model.config.sliding_window = 100
    assert decoder_for(model, "auto", 512) is None
    assert decoder_for(model, "auto", 64) is not None
    with pytest.raises(ValueError, match="attention window is 100 tokens"):
        decoder_for(model, "shared", 512)


def test_a_model_that_drops_attention_weights_is_given_plain_rows(family_folder: Any, run: Run) -> None:
    model = built(family_folder("gpt2"), run, layout="plain").network.model
    model.config.attn_pdrop = 0.1
    assert decoder_for(model, "auto", 512) is None


def test_a_model_that_caps_its_attention_is_given_plain_rows_though_a_short_probe_shows_nothing() -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "head_dim": 8}
    config = Gemma2Config(
        vocab_size=300, num_key_value_heads=2, final_logit_softcapping=None, sliding_window=4096, **size
    )
    assert decoder_for(Gemma2ForCausalLM(config).eval(), "auto", 512) is None


def test_asking_for_shared_rows_where_they_cannot_be_says_why(family_folder: Any, run: Run, tmp_path: Path) -> None:
    model = built(family_folder("llama"), run).network.model
    model.config.sliding_window = 8
    model.save_pretrained(tmp_path / "windowed")
    for file in family_folder("llama").glob("token*"):
        (tmp_path / "windowed" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="attention window is 8 tokens"):
        built(tmp_path / "windowed", run, layout="shared")


def lengths() -> st.SearchStrategy[list[tuple[int, list[int]]]]:
    return st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=6
    )


def batch_with(sizes: list[tuple[int, list[int]]]) -> Batch:
    group = torch.tensor([at for at, (_, answers) in enumerate(sizes) for _ in answers])
    text = Batch({IDS: [str(at) for at in range(len(sizes))], GROUP: group})
    prompts = [[at] * prompt for at, (prompt, _) in enumerate(sizes)]
    answers = [
        list(range(100 * at, 100 * at + answer)) for at, answer in enumerate(a for _, all_ in sizes for a in all_)
    ]
    return with_tokens(text, prompts, answers)


@given(lengths(), st.integers(1, 60), st.integers(1, 3))
@settings(deadline=None, max_examples=100)
def test_pieces_hold_every_completion_once_with_its_prompt_and_stay_within_the_budget(
    sizes: list[tuple[int, list[int]]], budget: int, ranks: int
) -> None:
    batch = batch_with(sizes)
    step = cut_into_pieces(batch, budget, COSTS, ranks)
    prompts = batch[PROMPT_TOKENS].split([prompt for prompt, _ in sizes])
    seen: list[int] = []
    for piece, at in zip(step.batches, step.places, strict=True):
        lengths = lengths_of(piece)
        single = [len(answers) == 1 for _, answers in lengths] == [True]
        assert single or sum(prompt + sum(answers) for prompt, answers in lengths) <= budget
        assert torch.equal(piece[TOKENS], batch[TOKENS][at["token"]])
        seqs = at["seq"].tolist()
        seen += seqs
        starts = piece[PROMPT_TOKENS].split([prompt for prompt, _ in lengths])
        for number, seq in enumerate(seqs):
            owner = int(batch[GROUP][seq])
            assert torch.equal(starts[int(piece[GROUP][number])], prompts[owner])
            assert piece[IDS][int(piece[GROUP][number])] == batch[IDS][owner]
    assert sorted(seen) == list(range(len(batch[GROUP])))
    assert step.cut is any(prompt + sum(answers) > budget and len(answers) > 1 for prompt, answers in sizes)
    again = cut_into_pieces(batch, budget, COSTS, ranks)
    assert all(torch.equal(one["seq"], other["seq"]) for one, other in zip(step.places, again.places, strict=True))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_bins_differ_in_weight_by_no_more_than_their_heaviest_group_where_the_budget_leaves_them_free(
    weights: list[int], ranks: int
) -> None:
    bins = balanced(weights, [1] * len(weights), 10**6, ranks)
    loads = [sum(weights[group] for group in content) for content in bins]
    assert sorted(group for content in bins for group in content) == list(range(len(weights)))
    assert max(loads) - min(loads) <= max(weights)
    assert len(bins) == min(ranks, len(weights))


@given(st.lists(st.integers(1, 500), max_size=30), st.integers(100, 600))
@settings(deadline=None, max_examples=100)
def test_bins_of_one_rank_keep_to_the_budget_and_hold_every_group_once(sizes: list[int], budget: int) -> None:
    bins = alike(sizes, budget)
    assert sorted(group for content in bins for group in content) == list(range(len(sizes)))
    assert all(len(content) == 1 or sum(sizes[group] for group in content) <= budget for content in bins)


def test_bins_of_one_rank_are_alike_and_of_those_the_ones_that_fill_rows_least_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert alike([40, 47, 61], 100) == [[2], [0, 1]]
    sizes = [64, 56, 48, 40, 32]
    assert alike(sizes, 140) == [[0, 1], [2, 3, 4]]
    monkeypatch.setattr(products, "by_onednn", lambda: True)
    monkeypatch.setattr(products, "ROWS", 16)
    # 120 each would be even, and filled up to 128; 112 and 128 are not filled at all.
    assert alike(sizes, 140) == [[0, 2], [1, 3, 4]]


def test_a_groups_cost_is_less_shared_than_apart_at_every_length() -> None:
    for prompt in (1, 10, 1000, 100_000):
        for answers in ([1, 1], [5] * 64, [2000, 1, 30_000]):
            apart = sum(COSTS.group(prompt, [answer]) for answer in answers)
            assert COSTS.group(prompt, answers) < apart


NOTE: Field[list[str]] = Field("note", "group")
PLACE: Field[torch.Tensor] = Field("place", "seq", "int64")


def test_a_cut_group_takes_its_prompt_and_what_is_said_of_it_into_every_part() -> None:
    batch = batch_with([(2, [3, 3, 3]), (1, [1])]).put(NOTE, ["large", "small"]).put(PLACE, torch.arange(4))
    parts = regrouped(batch, 8)
    assert parts[NOTE] == ["large", "large", "small"]
    assert lengths_of(parts) == [(2, [3, 3]), (2, [3]), (1, [1])]
    assert torch.equal(parts[PLACE], batch[PLACE])
    assert torch.equal(parts[SEQ], batch[SEQ])
    assert regrouped(batch, 11) is batch


@given(lengths())
@settings(deadline=None, max_examples=100)
def test_in_a_shared_row_each_answer_sees_its_prompt_and_itself_and_nothing_else(
    sizes: list[tuple[int, list[int]]],
) -> None:
    row = shared_row(batch_with(sizes))
    plain = plain_rows(batch_with(sizes))
    assert torch.equal(torch.cat([one.targets for one in plain]), row.targets)
    keys = torch.arange(len(row.tokens))
    at = 0
    for one in plain:
        for step in range(len(one.targets)):
            mask = row.plan.predictors.sees(torch.tensor(at), keys)
            # What a token is predicted from: its prompt and the answer so far, in order, from position 0.
            assert torch.equal(row.tokens[mask], one.tokens[: one.plan.predictors.rows[step] + 1])
            assert torch.equal(row.positions[mask], torch.arange(int(mask.sum())))
            at += 1


@given(lengths())
@settings(deadline=None, max_examples=50)
def test_a_shared_row_holds_each_prompt_once_and_no_padding(sizes: list[tuple[int, list[int]]]) -> None:
    assert len(shared_row(batch_with(sizes)).tokens) == sum(prompt + sum(answers) for prompt, answers in sizes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 4])
def test_the_chunked_head_says_what_the_models_own_logits_say(
    rank: int, family: str, family_folder: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(family_folder(family), run, lora_rank=rank)
    batch = model.encode(batch_of(pairs())).batch
    ours = model.network(batch)[LOGPROBS]
    own = built(family_folder(family), run, lora_rank=rank, layout="plain")
    monkeypatch.setattr(own.network, "_plain_head", False)
    torch.testing.assert_close(ours, own.network(batch)[LOGPROBS], rtol=0, atol=1e-5)

"""Shared rows and plain rows are two ways to the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.model.conftest import FAMILIES, pairs

from truing.fields import GROUP, IDS, LOGPROBS, PROMPT_TOKENS, TOKENS, Batch
from truing.run import Run
from truing_model.encode import with_tokens
from truing_model.forward import LAYOUTS, choose_layout
from truing_model.layout import micro_batches, plain_rows, shared_rows
from truing_model.plugin import CausalLm
from truing_tensor.groups import batch_of, join


def built(folder: Path, run: Run, **options: Any) -> Any:
    return CausalLm(path=str(folder), dtype="fp32", device="cpu", **options).build(run)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_the_same_in_shared_and_in_plain_rows(
    family: str, family_folder: Any, run: Run
) -> None:
    model = built(family_folder(family), run)
    batch = model.encode(batch_of(pairs())).batch
    found: dict[str, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for layout, rows in LAYOUTS.items():
        model.policy.layout = rows
        model.policy.zero_grad()
        logprobs = model.policy(batch)[LOGPROBS]
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        found[layout] = logprobs.detach(), [p.grad.clone() for p in model.policy.parameters() if p.grad is not None]
    torch.testing.assert_close(found["shared"][0], found["plain"][0], rtol=0, atol=1e-5)
    for shared, plain in zip(found["shared"][1], found["plain"][1], strict=True):
        assert (shared - plain).norm() <= 1e-4 * plain.norm() + 1e-6


def test_log_probabilities_are_those_that_transformers_itself_computes(family_folder: Any, run: Run) -> None:
    model = built(family_folder("llama"), run)
    batch = model.encode(batch_of(pairs())).batch
    ours = model.policy(batch)[LOGPROBS]
    expected: list[torch.Tensor] = []
    for row in plain_rows(batch):
        logits = model.policy.model(input_ids=row.tokens[None]).logits[0, :-1].log_softmax(-1)
        picked = logits.gather(1, row.tokens[1:, None])[:, 0]
        expected.append(picked[-len(row.targets) :])
    torch.testing.assert_close(ours, torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_exact_in_a_shared_row_is_given_shared_rows(family: str, family_folder: Any, run: Run) -> None:
    model = built(family_folder(family), run)
    assert model.layout == "shared"
    assert choose_layout(model.policy.model, 512) == "shared"


def test_a_model_whose_attention_window_is_shorter_than_its_rows_is_given_plain_rows(
    family_folder: Any, run: Run
) -> None:
    model = built(family_folder("llama"), run).policy.model
    model.config.sliding_window = 100
    assert choose_layout(model, 512) == "plain"
    assert choose_layout(model, 64) == "shared"


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


@given(lengths(), st.integers(1, 60))
@settings(deadline=None, max_examples=100)
def test_micro_batches_hold_every_group_once_and_stay_within_the_budget(
    sizes: list[tuple[int, list[int]]], budget: int
) -> None:
    batch = batch_with(sizes)
    pieces = list(micro_batches(batch, budget))
    for piece in pieces:
        assert len(piece[IDS]) == 1 or len(piece[PROMPT_TOKENS]) + len(piece[TOKENS]) <= budget
    whole = join(pieces)
    assert whole[IDS] == batch[IDS]
    for key in batch:
        if key is not IDS:
            assert torch.equal(whole[key], batch[key])


@given(lengths())
@settings(deadline=None, max_examples=100)
def test_in_a_shared_row_each_answer_sees_its_prompt_and_itself_and_nothing_else(
    sizes: list[tuple[int, list[int]]],
) -> None:
    [row] = shared_rows(batch_with(sizes))
    assert row.mask is not None
    plain = plain_rows(batch_with(sizes))
    assert torch.equal(torch.cat([one.targets for one in plain]), row.targets)
    at = 0
    for one in plain:
        for step in range(len(one.targets)):
            place = row.predicts[at]
            seen = row.tokens[row.mask[place]]
            # What a token is predicted from: its prompt and the answer so far, in order, from position 0.
            assert torch.equal(seen, one.tokens[: one.predicts[step] + 1])
            assert torch.equal(row.positions[row.mask[place]], torch.arange(len(seen)))
            at += 1


@given(lengths())
@settings(deadline=None, max_examples=50)
def test_a_shared_row_holds_each_prompt_once_and_no_padding(sizes: list[tuple[int, list[int]]]) -> None:
    [row] = shared_rows(batch_with(sizes))
    assert len(row.tokens) == sum(prompt + sum(answers) for prompt, answers in sizes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 4])
def test_the_chunked_head_says_what_the_models_own_logits_say(
    rank: int, family: str, family_folder: Any, run: Run
) -> None:
    model = built(family_folder(family), run, lora_rank=rank)
    assert model.policy.plain_head
    batch = model.encode(batch_of(pairs())).batch
    ours = model.policy(batch)[LOGPROBS]
    model.policy.plain_head = False
    torch.testing.assert_close(ours, model.policy(batch)[LOGPROBS], rtol=0, atol=1e-5)

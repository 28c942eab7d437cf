"""What was heard between turns: it is context of what follows, and nothing is learned of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from truing.fields import (
    ADVANTAGES,
    GROUP,
    HEARD,
    HEARD_BEFORE,
    IDS,
    LOGPROBS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    SEQ,
    TOKENS,
    Batch,
)
from truing.groups import joined, part
from truing.run import Run
from truing_model.layout import Costs, cut_into_pieces, lengths_of, only_some, whole_answers
from truing_model.plugin import CausalLm
from truing_tensor.groups import take, take_completions

HEARD_AT = [2, 2, 2, 4, 6, 6]
"""three tokens heard in front of token 2, one of token 4, both in the first completion; two in front of token 6, in the
third"""


def batch_of(heard: list[int] | None = None) -> Batch:
    """Two prompts; the first has completions of five tokens and of one, the second one of three."""
    return Batch(
        {
            IDS: ["a", "b"],
            PROMPT_TOKENS: torch.tensor([5, 6, 7, 8]),
            PROMPT_GROUP: torch.tensor([0, 0, 0, 1]),
            GROUP: torch.tensor([0, 0, 1]),
            TOKENS: torch.tensor([11, 12, 13, 14, 15, 21, 31, 32, 33]),
            SEQ: torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2]),
            ADVANTAGES: torch.linspace(-1, 1, 9),
            HEARD: torch.tensor(heard or [41, 42, 43, 44, 45, 46]),
            HEARD_BEFORE: torch.tensor(HEARD_AT),
        }
    )


def built(folder: Path, run: Run, layout: str) -> Any:
    return CausalLm(path=str(folder), dtype="fp32", device="cpu", layout=layout).build(run)


def gradients(model: Any, batch: Batch, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The log-probabilities of the model's own tokens, and the gradient of their weighed sum."""
    model.network.zero_grad()
    logprobs = model.network(batch)[LOGPROBS]
    (logprobs * weights).sum().backward()
    return logprobs.detach(), [value.grad.clone() for value in model.network.parameters() if value.grad is not None]


def test_what_was_heard_lies_where_it_was_read() -> None:
    whole, own = whole_answers(batch_of())
    assert whole.tolist() == [11, 12, 41, 42, 43, 13, 14, 44, 15, 21, 45, 46, 31, 32, 33]
    assert own.tolist() == [0, 1, 5, 6, 8, 9, 12, 13, 14]
    assert lengths_of(batch_of()) == [(3, [9, 1]), (1, [5])]


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_the_gradient_is_that_of_transformers_with_the_heard_tokens_left_out_of_its_labels(
    layout: str, family_folder: Any, run: Run
) -> None:
    model = built(family_folder("llama"), run, layout)
    weights = torch.linspace(-1, 1, 9)
    logprobs, found = gradients(model, batch_of(), weights)
    rows = [
        ([5, 6, 7, 11, 12, 41, 42, 43, 13, 14, 44, 15], [3, 4, 8, 9, 11]),
        ([5, 6, 7, 21], [3]),
        ([8, 45, 46, 31, 32, 33], [3, 4, 5]),
    ]
    model.network.zero_grad()
    said: list[Tensor] = []
    for row, places in rows:
        tokens = torch.tensor([row])
        each = model.network.model(input_ids=tokens).logits[0, :-1].log_softmax(1).gather(1, tokens[0, 1:, None])[:, 0]
        said.append(each[[place - 1 for place in places]])
    (torch.cat(said) * weights).sum().backward()
    torch.testing.assert_close(logprobs, torch.cat(said).detach(), rtol=0, atol=1e-5)
    expected = [value.grad for value in model.network.parameters() if value.grad is not None]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_another_text_of_the_environment_changes_what_follows_it_and_no_gradient_of_what_came_before(
    layout: str, family_folder: Any, run: Run
) -> None:
    model = built(family_folder("llama"), run, layout)
    before = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    said, one = gradients(model, batch_of(), before)
    heard, other = gradients(model, batch_of([51, 52, 53, 44, 45, 46]), before)
    assert torch.equal(said != heard, torch.tensor([0, 0, 1, 1, 1, 0, 0, 0, 0]).bool())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    _, all_of_it = gradients(model, batch_of(), torch.ones(9))
    _, changed = gradients(model, batch_of([51, 52, 53, 44, 45, 46]), torch.ones(9))
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(all_of_it, changed, strict=True))


def test_it_travels_with_its_completion_however_a_batch_is_cut(family_folder: Any, run: Run) -> None:
    model, batch = built(family_folder("llama"), run, "shared"), batch_of()
    whole = model.network(batch)[LOGPROBS]
    assert joined([part(batch, [0]), part(batch, [1])])[HEARD_BEFORE].tolist() == HEARD_AT
    torch.testing.assert_close(model.network(take(batch, [1]))[LOGPROBS], whole[6:], rtol=0, atol=1e-5)
    kept = torch.tensor([False, True, True])
    for some in (take_completions(batch, kept), only_some(batch, kept)):
        torch.testing.assert_close(model.network(some)[LOGPROBS], whole[5:], rtol=0, atol=1e-5)
    pieces = cut_into_pieces(batch, 12, Costs(1, 1, 1))
    assert pieces.cut
    assert len(pieces.batches) == 2
    for piece, places in zip(pieces.batches, pieces.places, strict=True):
        assert sum(prompt + sum(answers) for prompt, answers in lengths_of(piece)) <= 12
        torch.testing.assert_close(model.network(piece)[LOGPROBS], whole[places["token"]], rtol=0, atol=1e-5)

"""The head by chunks: the same numbers and gradients as the naive way, in a fraction of the memory."""

from __future__ import annotations

import sys

import pytest
import torch
from tests.memory import peak_bytes
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM

from truing.fields import COLLISION_ENTROPY, ENTROPY, LOGPROBS, PROMPT_TOKENS, SEQ, TOKENS, Group, fields
from truing_model import head
from truing_model.encode import Encoder
from truing_model.forward import Network
from truing_model.head import token_logprobs
from truing_model.scratch import byte_tokenizer
from truing_tensor.decoder import plain_head
from truing_tensor.groups import batch_of


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logprobs = (hidden @ weight.T).log_softmax(-1)
    probabilities = logprobs.exp()
    entropy, collision = -(probabilities * logprobs).sum(-1), -(probabilities**2).sum(-1).log()
    return logprobs.gather(1, targets[:, None])[:, 0], entropy, collision.detach()


def example(tokens: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(0, 11, (tokens,))


@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
def test_numbers_and_gradients_are_those_of_the_naive_way(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK", chunk)
    hidden, weight, targets = example()
    ours, theirs = (
        token_logprobs(hidden, weight, targets, torch.float64, with_entropy=True, with_collision=True),
        naive(hidden, weight, targets),
    )
    assert not ours.collision.requires_grad
    scale = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    for output, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    mixed = (ours[0] * ours[2] + ours[1] ** 2, theirs[0] * theirs[2] + theirs[1] ** 2)
    for output, expected in (*zip(ours[:2], theirs[:2], strict=True), mixed):
        found = torch.autograd.grad((output * scale).sum(), (hidden, weight), retain_graph=True)
        wanted = torch.autograd.grad((expected * scale).sum(), (hidden, weight), retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_agree_with_finite_differences() -> None:
    hidden, weight, targets = example(5)
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, w, targets, torch.float64, with_entropy=True)[:2],
        (hidden, weight),
        eps=1e-6,
        atol=1e-7,
    )


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_get_theirs() -> None:
    hidden, weight, targets = example()
    frozen = weight.detach()
    [wanted] = torch.autograd.grad(naive(hidden, frozen, targets)[0].sum(), hidden)
    total = token_logprobs(hidden, frozen, targets, torch.float64)[0].sum()
    for _ in range(2):
        [found] = torch.autograd.grad(total, hidden, retain_graph=True)
        torch.testing.assert_close(found, wanted)


def test_no_tokens_at_all_have_no_log_probabilities() -> None:
    hidden, weight, _ = example(1)
    found = token_logprobs(hidden[:0], weight, torch.zeros(0, dtype=torch.int64), torch.float64)
    assert list(map(len, found)) == [0, 0, 0]


def granite(vocabulary: int, scaling: float) -> GraniteForCausalLM:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    config = GraniteConfig(vocab_size=vocabulary, logits_scaling=scaling, bos_token_id=None, **size)
    return GraniteForCausalLM(config).eval()


@pytest.mark.parametrize(("scaling", "plain"), [(1.0, True), (2.0, False)])
def test_a_model_that_scales_its_logits_is_not_given_the_plain_head(scaling: float, plain: bool) -> None:
    assert (plain_head(granite(20, scaling)) is not None) is plain


@pytest.mark.parametrize("scaling", [0.1, 1.0], ids=["a head of its own", "the plain head"])
def test_entropies_are_those_of_the_distribution_that_predicts_each_token(scaling: float) -> None:
    tokenizer = byte_tokenizer()
    model = granite(len(tokenizer), scaling)
    group = Group(id="a", prompt="what", completions=["then", "no"])
    batch = Encoder(tokenizer, 64, truncate=False)(batch_of([group])).batch
    gives = fields(LOGPROBS, ENTROPY, COLLISION_ENTROPY)
    found = Network(model, None, {}, gives, bf16=False)(batch)
    prompt = batch[PROMPT_TOKENS].tolist()
    rows = [batch[TOKENS][batch[SEQ] == at].tolist() for at in range(2)]
    with torch.no_grad():
        logs = [
            model(input_ids=torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for row in rows
        ]
    p = torch.cat(logs).exp()
    torch.testing.assert_close(found[ENTROPY].detach(), -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[COLLISION_ENTROPY], -(p * p).sum(-1).log(), rtol=1e-4, atol=1e-5)
    assert found[LOGPROBS].requires_grad
    assert not found[COLLISION_ENTROPY].requires_grad


_MEMORY = """
import sys, torch
torch.manual_seed(0)
hidden = torch.randn(4096, 64, requires_grad=True)
weight = torch.randn(49152, 64, requires_grad=True)
targets = torch.randint(0, 49152, (4096,))
from truing_model.head import token_logprobs
if sys.argv[1] == "none":
    logprobs = hidden + weight[0]
elif sys.argv[1] == "ours":
    logprobs = token_logprobs(hidden, weight, targets, torch.float32)[0]
else:
    logprobs = (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
logprobs.sum().backward()
"""


def test_at_vocabulary_49k_and_4k_tokens_peak_memory_is_at_least_four_times_less_than_the_naive_way() -> None:
    none, ours, naive = (peak_bytes([sys.executable, "-c", _MEMORY, way]) for way in ("none", "ours", "naive"))
    assert 0 < 4 * (ours - none) < naive - none

"""From hidden states to the log-probability of each token, without ever holding `[token, vocabulary]`.

The logits of a chunk of tokens are made, reduced to one number or two a token, and let go; the backward pass makes them
again and turns them into gradients by the formula, so nothing of that size waits in between. Where all tokens fit into
one chunk its logits are kept instead, which saves making them twice. With p = softmax(z):

    d log p_t / d z_j = [j = t] - p_j                 d H / d z_j = -p_j (log p_j + H)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 512
"""tokens whose logits exist at a time"""


class TokenLogprobs(torch.autograd.Function):
    """Log-probability and entropy of tokens from hidden states and the vocabulary's matrix."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, compute: torch.dtype, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """hidden [token, width], weight [vocabulary, width], targets [token]; gives log p and H [token], in nats.

        compute: the type of the matrix products; everything after them is fp32 at least.
        """
        matrix = weight.to(compute)
        logprobs, entropies, norms = [], [], []
        products = torch.empty(0)
        for part, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            products = part.to(compute) @ matrix.T
            logits = _precise(products)
            norm = logits.logsumexp(1)
            norms.append(norm)
            logprobs.append(logits.gather(1, wanted[:, None])[:, 0] - norm)
            if with_entropy:
                entropies.append(norm - torch.einsum("tv,tv->t", (logits - norm[:, None]).exp_(), logits))
        entropy = torch.cat(entropies) if with_entropy else torch.zeros_like(torch.cat(logprobs))
        kept = products if len(norms) == 1 else torch.empty(0)
        ctx.compute, ctx.with_entropy = compute, with_entropy
        ctx.save_for_backward(hidden, weight, targets, torch.cat(norms), entropy, kept)
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """The gradients of hidden and weight; that of a frozen weight is not made."""
        hidden, weight, targets, norms, entropy, kept = ctx.saved_tensors
        matrix = weight.to(ctx.compute)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(matrix) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), CHUNK):
            at = slice(start, start + CHUNK)
            part = hidden[at].to(ctx.compute)
            logprobs = _precise(kept if len(kept) else part @ matrix.T) - norms[at, None]
            of_logprob, of_entropy = (gradient[at, None] for gradient in gradients)
            scale = of_logprob + of_entropy * (logprobs + entropy[at, None]) if ctx.with_entropy else of_logprob
            to_logits = logprobs.exp_().mul_(-scale)
            to_logits.scatter_add_(1, targets[at, None], of_logprob)
            to_logits = to_logits.to(ctx.compute)
            to_hidden[at] = to_logits @ matrix
            if to_weight is not None:
                to_weight.addmm_(to_logits.T, part)
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None, None


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, compute: torch.dtype, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy [token] of `targets` [token] given `hidden` [token, width], in nats.

    compute: type of the matrix products. The entropy is 0 unless it is asked for.
    """
    logprobs, entropy = TokenLogprobs.apply(hidden, weight, targets, compute, with_entropy)
    return logprobs, entropy


def plain_head(model: nn.Module) -> Tensor | None:
    """The vocabulary's matrix if it alone makes logits out of the last hidden states, else None.

    Asked of the model itself: one that caps, scales or shifts its logits gives other numbers, and goes its own way.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return None
    tokens = torch.tensor([[5, 6, 7]], device=head.weight.device)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        same = torch.allclose(head(hidden), model(input_ids=tokens, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    return head.weight if same else None


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()

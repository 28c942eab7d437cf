"""From hidden states to the log-probability of each token, without ever holding `[token, vocabulary]`.

The logits of a chunk of tokens are made, reduced to one number or two a token, and let go; the backward pass makes them
again and turns them into gradients by the formula. The first chunks are kept instead, up to a fixed number of bytes,
which saves making them twice. With p = softmax(z):

    d log p_t / d z_j = [j = t] - p_j                 d H / d z_j = -p_j (log p_j + H)

The collision entropy, -log sum_j p_j^2, is for weights and has no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from truing_tensor.products import filled, product, product_over

CHUNK = 256
"""tokens whose logits exist at a time"""
KEPT = 128 * 2**20
"""bytes of log-softmax that may wait for the backward pass"""


class OfTokens(NamedTuple):
    """What is read off the vocabulary at each token [token], in nats. What was not asked for is 0."""

    logprobs: Tensor
    entropy: Tensor
    collision: Tensor


class TokenLogprobs(torch.autograd.Function):
    """Log-probability and entropies of tokens from hidden states and the vocabulary's matrix."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        compute: torch.dtype,
        with_entropy: bool,
        with_collision: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden [token, width], weight [vocabulary, width], targets [token]; gives log p, H and -log sum p^2 [token].

        compute: the type of the matrix products; everything after them is fp32 at least.
        """
        matrix = weight.to(compute)
        logprobs, entropies, collisions, norms, kept = [], [], [], [], []
        room = KEPT
        count, hidden, targets = len(hidden), filled(hidden), filled(targets)
        for part, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            logits = product(part.to(compute), matrix.T)
            first = logits[:, 0].to(_precision(compute))
            logs = torch.log_softmax(logits, 1, dtype=_precision(compute))
            norms.append(first - logs[:, 0])
            logprobs.append(logs.gather(1, wanted[:, None])[:, 0])
            if with_entropy:
                entropies.append(-torch.einsum("tv,tv->t", logs.exp(), logs))
            if with_collision:
                collisions.append(-logs.exp().square_().sum(1).log())
            room -= logs.nbytes
            kept.append(logs if room >= 0 else logs.new_empty(0))
        found = torch.cat(logprobs)
        entropy = torch.cat(entropies) if with_entropy else torch.zeros_like(found)
        collision = torch.cat(collisions) if with_collision else torch.zeros_like(found)
        ctx.compute, ctx.with_entropy = compute, with_entropy
        ctx.save_for_backward(hidden, weight, targets, torch.cat(norms), entropy, *kept)
        given = found[:count], entropy[:count], collision[:count]
        ctx.mark_non_differentiable(given[2])
        return given

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        """The gradients of hidden and weight; that of a frozen weight is not made."""
        hidden, weight, targets, norms, entropy, *kept = ctx.saved_tensors
        matrix = weight.to(ctx.compute)
        of_logprobs, of_entropies = map(filled, gradients[:2])
        to_hidden = torch.empty_like(hidden)
        to_weight: Tensor | None = None
        for number, logs in enumerate(kept):
            at = slice(number * CHUNK, (number + 1) * CHUNK)
            part = hidden[at].to(ctx.compute)
            if not len(logs):
                logs = product(part, matrix.T).to(norms.dtype).sub_(norms[at, None])
            of_logprob, of_entropy = of_logprobs[at, None], of_entropies[at, None]
            scale = of_logprob + of_entropy * (logs + entropy[at, None]) if ctx.with_entropy else of_logprob
            to_logits = logs.exp().mul_(-scale)
            to_logits.scatter_add_(1, targets[at, None], of_logprob)
            to_logits = to_logits.to(ctx.compute)
            to_hidden[at] = product(to_logits, matrix)
            if ctx.needs_input_grad[1]:
                found = product_over(to_logits, part)
                to_weight = found if to_weight is None else to_weight.add_(found)
        to_weight = None if to_weight is None else to_weight.to(weight.dtype).contiguous()
        return to_hidden[: len(gradients[0])], to_weight, None, None, None, None


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    compute: torch.dtype,
    *,
    with_entropy: bool = False,
    with_collision: bool = False,
) -> OfTokens:
    """Log-probability of `targets` [token] given `hidden` [token, width], and the entropies that are asked for.

    compute: type of the matrix products.
    """
    return OfTokens(*TokenLogprobs.apply(hidden, weight, targets, compute, with_entropy, with_collision))


def _precision(compute: torch.dtype) -> torch.dtype:
    return torch.float64 if compute == torch.float64 else torch.float32

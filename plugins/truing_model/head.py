"""From hidden states to the log-probability of each token, without ever holding `[token, vocabulary]`.

The logits of a chunk of tokens are made, reduced to one number or two a token, and let go; the backward pass makes them
again and turns them into gradients by the formula. Of the first chunks p is kept instead, or log p if an entropy asks
for it, up to a fixed number of bytes, which saves making them twice. With p = softmax(z):

    d log p_t / d z_j = [j = t] - p_j                 d H / d z_j = -p_j (log p_j + H)

The collision entropy, -log sum_j p_j^2, is for weights and has no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from truing_tensor.products import filled, product, product_over, rows_for

CHUNK = 256
"""tokens whose logits exist at a time"""
KEPT = 128 * 2**20
"""bytes that may wait for the backward pass"""


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
        gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden [token, width], weight [vocabulary, width], targets [token]; gives log p, H and -log sum p^2 [token].

        compute: the type of the matrix products; everything after them is fp32 at least. gradients: whether they are
        going to be asked for.
        """
        matrix, exact = weight.to(compute), _precision(compute)
        logprobs, entropies, collisions = [], [], []
        kept: list[Tensor | None] = []
        room = KEPT if gradients else 0
        count, rows = len(hidden), rows_for(matrix.numel())
        hidden, targets = filled(hidden, rows), filled(targets, rows)
        for part, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            logits = product(part.to(compute), matrix.T)
            held = chances = _normalized(logits, with_entropy)
            if with_entropy:
                logprobs.append(held.gather(1, wanted[:, None])[:, 0])
                chances = held.exp()
                entropies.append(-torch.einsum("tv,tv->t", chances, held))
            else:
                # By the largest, which is never rounded to 0.
                below = logits.gather(1, wanted[:, None])[:, 0].to(exact) - logits.amax(1).to(exact)
                logprobs.append(below + held.amax(1).log())
            if with_collision:
                collisions.append(-2 * torch.linalg.vector_norm(chances, dim=1).log())
            room -= held.nbytes
            kept.append(held if room >= 0 else None)
        found = torch.cat(logprobs)
        entropy = torch.cat(entropies) if with_entropy else torch.zeros_like(found)
        collision = torch.cat(collisions) if with_collision else torch.zeros_like(found)
        ctx.compute, ctx.with_entropy, ctx.kept = compute, with_entropy, kept
        ctx.save_for_backward(hidden, weight, targets, entropy)
        given = found[:count], entropy[:count], collision[:count]
        ctx.mark_non_differentiable(given[2])
        return given

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of hidden and weight; that of a frozen weight is not made."""
        hidden, weight, targets, entropy = ctx.saved_tensors
        matrix = weight.to(ctx.compute)
        of_logprobs, of_entropies = (filled(part, rows_for(matrix.numel()))[:, None] for part in gradients[:2])
        to_hidden = torch.empty_like(hidden)
        to_weight: Tensor | None = None
        for number, held in enumerate(ctx.kept):
            # One that is used is changed in its place and gone; a second pass back makes it again.
            ctx.kept[number] = None
            at = slice(number * CHUNK, (number + 1) * CHUNK)
            part, of_logprob = hidden[at].to(ctx.compute), of_logprobs[at]
            if held is None:
                held = _normalized(product(part, matrix.T), ctx.with_entropy)
            if ctx.with_entropy:
                to_logits = held.exp().mul_(-(of_logprob + of_entropies[at] * (held + entropy[at, None])))
            else:
                to_logits = held.mul_(-of_logprob)
            to_logits.scatter_add_(1, targets[at, None], of_logprob)
            to_logits = to_logits.to(ctx.compute)
            to_hidden[at] = product(to_logits, matrix)
            if ctx.needs_input_grad[1]:
                found = product_over(to_logits, part)
                to_weight = found if to_weight is None else to_weight.add_(found)
        to_weight = None if to_weight is None else to_weight.to(weight.dtype).contiguous()
        return to_hidden[: len(gradients[0])], to_weight, None, None, None, None, None


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
    gradients = torch.is_grad_enabled()
    return OfTokens(*TokenLogprobs.apply(hidden, weight, targets, compute, with_entropy, with_collision, gradients))


def _normalized(logits: Tensor, logarithms: bool) -> Tensor:
    return (torch.log_softmax if logarithms else torch.softmax)(logits, 1, dtype=_precision(logits.dtype))


def _precision(compute: torch.dtype) -> torch.dtype:
    return torch.float64 if compute == torch.float64 else torch.float32

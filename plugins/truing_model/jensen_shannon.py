"""How far a student is from its teacher over all of the vocabulary, without ever holding `[token, vocabulary]`.

With p the teacher's next-token distribution, q the student's, and m = beta p + (1 - beta) q, the generalised
Jensen-Shannon divergence (arXiv:2306.13649, eq. 1) is, in nats,

    D = beta KL(p || m) + (1 - beta) KL(q || m)

For beta = 0 and beta = 1, where it is 0 whatever p and q, D stands for what it goes to over beta and over 1 - beta: the
forward KL(p || q), and the reverse KL(q || p), which MiniLLM learns by (arXiv:2306.08543, eq. 1). With q = softmax(z):

    d D / d z = q (g - sum of q g)      g = (1 - beta) log(q / m), and log(q / p) for beta = 1
    d D / d z = q - p                   for beta = 0

The logits of a chunk of tokens are made twice, for D and for its gradient, and let go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truing_model.head import CHUNK


class Side(NamedTuple):
    """Who predicts. hidden [token, width], weight [vocabulary, width]; compute: the type of the matrix products."""

    hidden: Tensor
    weight: Tensor
    compute: torch.dtype


class JensenShannon(torch.autograd.Function):
    """D at each token, from hidden states and the vocabulary's matrix of both."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, compute: torch.dtype, teacher: Side, beta: float) -> Tensor:
        """D [token]. Of vocabularies that are padded unalike, the tokens that both have count."""
        ctx.compute, ctx.their_compute, ctx.beta = compute, teacher.compute, beta
        ctx.save_for_backward(hidden, weight, teacher.hidden, teacher.weight)
        parts = _chunks(Side(hidden, weight, compute), teacher)
        return torch.cat([divergence(theirs, ours, beta) for theirs, ours in parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """The gradients of hidden and weight; that of a frozen weight is not made, nor any of the teacher's."""
        hidden, weight, their_hidden, their_weight = ctx.saved_tensors
        ours, theirs = Side(hidden, weight, ctx.compute), Side(their_hidden, their_weight, ctx.their_compute)
        size = min(len(weight), len(their_weight))
        matrix = weight[:size].to(ctx.compute)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=ctx.compute) if ctx.needs_input_grad[1] else None
        for number, (p, q) in enumerate(_chunks(ours, theirs)):
            at = slice(number * CHUNK, (number + 1) * CHUNK)
            to_logits = (of_logits(p, q, ctx.beta) * gradients[0][at, None]).to(ctx.compute)
            to_hidden[at] = to_logits @ matrix
            if to_weight is not None:
                to_weight[:size].addmm_(to_logits.T, hidden[at].to(ctx.compute))
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None, None


def jensen_shannon(student: Side, teacher: Side, beta: float) -> Tensor:
    """D [token] in nats, with gradients for the student alone."""
    return JensenShannon.apply(student.hidden, student.weight, student.compute, teacher, beta)


def divergence(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """D [token] of log-probabilities [token, vocabulary] of teacher and student."""
    if beta == 0:
        return (p.exp() * (p - q)).sum(1)
    if beta == 1:
        return (q.exp() * (q - p)).sum(1)
    m = _mixture(p, q, beta)
    return beta * (p.exp() * (p - m)).sum(1) + (1 - beta) * (q.exp() * (q - m)).sum(1)


def of_logits(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """The gradient of D with respect to the student's logits [token, vocabulary]."""
    if beta == 0:
        return q.exp() - p.exp()
    g = q - p if beta == 1 else (1 - beta) * (q - _mixture(p, q, beta))
    weights = q.exp()
    return weights * (g - (weights * g).sum(1, keepdim=True))


def _mixture(p: Tensor, q: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))


def _chunks(student: Side, teacher: Side) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probabilities of teacher and student, some tokens at a time."""
    size = min(len(student.weight), len(teacher.weight))
    matrices = [side.weight[:size].to(side.compute) for side in (teacher, student)]
    for parts in zip(teacher.hidden.split(CHUNK), student.hidden.split(CHUNK), strict=True):
        theirs, ours = (
            torch.log_softmax(part.to(matrix.dtype) @ matrix.T, 1, dtype=_exact(matrix.dtype))
            for part, matrix in zip(parts, matrices, strict=True)
        )
        yield theirs, ours.to(theirs.device)


def _exact(compute: torch.dtype) -> torch.dtype:
    return torch.promote_types(compute, torch.float32)

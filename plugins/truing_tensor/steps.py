"""Steps of solutions: where they end, counted in tokens, and what their scores come to.

A separator is looked for in the text that tokens decode to, never among token ids: the same line break is one token
alone and part of another one behind a full stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing_tensor.segments import segment_mean, segment_sum

Aggregate = Literal["min", "product", "last", "mean", "log-odds"]


def step_ends(tokens: Sequence[int], text: Callable[[Sequence[int]], str], separator: str) -> list[int]:
    """The position of the last token of each step, its separator included; a last step may have none.

    A step ends with the token that completes the separator behind it. What is blank is no step: it belongs to the step
    behind it, and at the end to none. text: decodes tokens.
    """
    ends: list[int] = []
    start = 0
    for at in range(len(tokens)):
        if is_complete(text(tokens[start : at + 1]), separator):
            ends.append(at)
            start = at + 1
    return [*ends, len(tokens) - 1] if split_steps(text(tokens[start:]), separator) else ends


def is_complete(text: str, separator: str) -> bool:
    """Whether a separator stands behind a step of a text."""
    return any(step.strip() for step in text.split(separator)[:-1])


def split_steps(text: str, separator: str) -> list[str]:
    """The steps of a text, without the separators between them; what is blank is no step."""
    return [step for step in text.split(separator) if step.strip()]


def aggregated(scores: Tensor, seq: Tensor, count: int, how: Aggregate, empty: float) -> Tensor:
    """The score [seq] of each of `count` completions from the log-odds `scores` [step] of its steps, in their order.

    seq [step] says which completion, in rising order. min, product, last and mean are of probabilities, log-odds a sum
    of log-odds, in nats. A completion without steps scores `empty`.
    """
    chances = scores.sigmoid()
    if how == "min":
        found = scores.new_zeros(count).scatter_reduce(0, seq, chances, "amin", include_self=False)
    elif how == "product":
        found = segment_sum(logsigmoid(scores), seq, count).exp()
    elif how == "mean":
        found = segment_mean(chances, seq, count)
    elif how == "log-odds":
        found = segment_sum(scores, seq, count)
    else:
        last = torch.cat([seq[1:] != seq[:-1], seq.new_ones(min(1, len(seq))).bool()])
        found = scores.new_zeros(count).index_put((seq[last],), chances[last])
    has_steps = seq.new_zeros(count).index_add(0, seq, seq.new_ones(len(seq))) > 0
    return found.where(has_steps, found.new_tensor(empty))

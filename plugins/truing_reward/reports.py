"""What losses on scores report, under the names that preference losses have; all sums, so that a step may be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from truing.fields import CHOSEN, GROUP, LABEL, RANK, REJECTED, SCORES, SEQ, Batch
from truing.stage import Term
from truing_tensor.comparisons import correlation, half_right, ranked_apart
from truing_tensor.segments import segment_mean, segment_sum

Metrics = Mapping[str, Term]


def of_pairs(
    batch: Batch, said: Tensor, more: Mapping[str, Tensor], weight: Tensor, per: Literal["pair", "group"]
) -> Metrics:
    """Of pairs: said [pair] is the probability that the first is better; chosen is what it speaks for.

    accuracy: a tie, in rewards or in what was said, counts half. reward/equal: the share of pairs with equal rewards.
    more: further numbers [pair]. weight: of a pair [pair], so that all are means over `per`.
    """
    first, second, length = batch[CHOSEN], batch[REJECTED], lengths(batch)
    chosen, rejected = first.where(said >= 0.5, second), second.where(said >= 0.5, first)
    reward = batch[SCORES].detach()
    margin = reward[chosen] - reward[rejected]
    found = {
        "accuracy": half_right(margin).where(said != 0.5, 0.5),
        "margin": margin,
        "reward/chosen": reward[chosen],
        "reward/rejected": reward[rejected],
        "reward/equal": (margin == 0).to(margin),
        "length/difference": length[chosen] - length[rejected],
        **more,
    }
    means = {name: Term((weight * values.detach()).sum(), per) for name, values in found.items()}
    return {**means, **with_length(reward, length)}


def of_rankings(batch: Batch) -> Metrics:
    """Of rankings: chosen is the best of a prompt, rejected the worst, and the mean of several that are tied.

    accuracy, margin and reward/equal are means over the pairs of a prompt that are not tied, then over prompts.
    top1: the share of prompts whose highest reward is that of a best completion, divided among equal rewards.
    """
    reward, group, rank, length = batch[SCORES].detach(), batch[GROUP], batch[RANK], lengths(batch)
    count = int(group.max()) + 1
    above, below = ranked_apart(group, rank)
    best, worst = torch.ones_like(rank, dtype=torch.bool), torch.ones_like(rank, dtype=torch.bool)
    best[below], worst[above] = False, False
    highest = reward.new_full((count,), float("-inf")).scatter_reduce(0, group, reward, "amax")[group] == reward
    margin = reward[above] - reward[below]

    def of(values: Tensor, which: Tensor) -> Tensor:
        return segment_mean(values[which], group[which], count)

    found = {
        "accuracy": segment_mean(half_right(margin), group[above], count),
        "margin": segment_mean(margin, group[above], count),
        "reward/equal": segment_mean((margin == 0).to(margin), group[above], count),
        "top1": of(best.to(reward), highest),
        "reward/chosen": of(reward, best),
        "reward/rejected": of(reward, worst),
        "length/difference": of(length, best) - of(length, worst),
    }
    means = {name: Term(values.sum(), "group") for name, values in found.items()}
    return {**means, **with_length(reward, length)}


def of_labels(batch: Batch, nll: Tensor) -> Metrics:
    """Of labelled completions: nll [seq] in nats; a reward of 0 decides nothing and counts half right."""
    reward, label = batch[SCORES].detach(), batch[LABEL].to(batch[SCORES])
    probability = reward.sigmoid()
    found = {
        "accuracy": half_right(reward * (2 * label - 1)),
        "probability": probability,
        "desirable": label,
        "brier": (probability - label).square(),
        "nll": nll.detach(),
    }
    means = {name: Term(values.sum(), "seq") for name, values in found.items()}
    return {**means, **correlation("label/correlation", reward, label, "seq"), **with_length(reward, lengths(batch))}


def lengths(batch: Batch) -> Tensor:
    """The tokens of each completion [seq]."""
    scores = batch[SCORES].detach()
    return segment_sum(scores.new_ones(len(batch[SEQ])), batch[SEQ], len(scores))


def with_length(reward: Tensor, length: Tensor) -> Metrics:
    """How rewards go with length, over all completions of a step."""
    return correlation("length/correlation", reward, length, "seq")

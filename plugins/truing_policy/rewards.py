"""Rewards: what a scorer says of a completion, less what it cost to leave the reference.

    r_t = -beta KL_t + w p_t [a step ends at t] + score [t is the last token]

InstructGPT's (arXiv:2203.02155, eq. 2) with the KL divergence estimated at each token under the policy that wrote it,
and a process reward model's steps. Every estimator begins here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from truing.fields import GROUP, KL_COEFFICIENT, LOGPROBS_OLD, LOGPROBS_REF, SCORES, SEQ, STEP_END, STEP_SCORES, Batch
from truing_policy.menu_advantages import Shaped, Temporal
from truing_tensor.divergence import divergence
from truing_tensor.segments import segment_sum


def costs(batch: Batch, spec: Shaped) -> Tensor:
    """What each token costs of the reward [token]: beta times the estimate of its KL divergence; 0 if kl is."""
    if not spec.kl:
        return torch.zeros(len(batch[SEQ]), dtype=batch[SCORES].dtype)
    return coefficient(spec.kl, batch) * divergence(batch[LOGPROBS_OLD], batch[LOGPROBS_REF], spec.kl_estimator)


def coefficient(kl: float | Literal["controlled"], batch: Batch) -> float:
    """What a nat costs: as it was written, or as a controller has it in this step."""
    return batch[KL_COEFFICIENT] if kl == "controlled" else kl


def of_completions(batch: Batch, spec: Shaped) -> Tensor:
    """The reward of each completion [seq]: its score less what its tokens cost."""
    scores = batch[SCORES]
    return scores - segment_sum(costs(batch, spec).to(scores.dtype), batch[SEQ], len(scores))


def of_tokens(batch: Batch, spec: Shaped) -> Tensor:
    """The reward at each token [token]; those of a completion sum to its own."""
    scores = batch[SCORES]
    rewards = -costs(batch, spec).to(scores.dtype)
    written, last = last_tokens(batch[SEQ], len(batch[GROUP]))
    rewards = rewards.index_add(0, last, scores[written])
    if isinstance(spec, Temporal) and spec.step_weight:
        right = batch[STEP_SCORES].sigmoid().to(scores.dtype)
        rewards = rewards.index_add(0, batch[STEP_END], spec.step_weight * right)
    return rewards


def last_tokens(seq: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which of `count` completions have any token, and where the last of each lies among the tokens `seq` [token]."""
    sizes = torch.bincount(seq, minlength=count)
    written = torch.nonzero(sizes).flatten()
    return written, (sizes.cumsum(0) - 1)[written]

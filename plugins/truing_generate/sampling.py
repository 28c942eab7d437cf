"""From logits to a token: the distribution it is drawn from, the draw, and its log-probability under both.

One uniform number a token decides the draw, by where it falls along the summed probabilities. So a sample depends on
its own numbers alone, whatever batch it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_RUN = 256
"""how many probabilities are summed in one go: within a run, and from run to run"""
_LIKELIEST = 1024
"""how many tokens are sorted before it is asked whether they are enough for `top_p`"""


class Drawn(NamedTuple):
    """tokens [seq]; logprobs [seq]: under the model; sampled [seq]: under the distribution they were drawn from."""

    tokens: Tensor
    logprobs: Tensor
    sampled: Tensor


@dataclass(frozen=True)
class Sampler:
    """The sampling distribution: logits over `temperature`, then the `top_k` likeliest, then the fewest likeliest that
    have probability `top_p` together, then those at least `min_p` times as likely as the likeliest.

    top_k 0 and top_p 1 leave all in; temperature 0 takes the likeliest token.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __call__(self, logits: Tensor, uniform: Tensor) -> Drawn:
        """logits [seq, vocabulary]; uniform [seq]: numbers in [0, 1) that decide the draws."""
        logs = torch.log_softmax(logits, 1, dtype=torch.float32)
        if self.temperature == 0:
            tokens = logs.argmax(1)
            return Drawn(tokens, _at(logs, tokens), torch.zeros_like(uniform))
        if self.temperature == 1 and not self._cuts:
            tokens = draw(logs.exp(), uniform)
            found = _at(logs, tokens)
            return Drawn(tokens, found, found)
        scaled = torch.log_softmax(logits.float() / self.temperature, 1)
        if not self._cuts:
            tokens = draw(scaled.exp(), uniform)
            return Drawn(tokens, _at(logs, tokens), _at(scaled, tokens))
        chances, places = self._kept(scaled)
        chances = chances / chances.sum(1, keepdim=True)
        picked = draw(chances, uniform)
        tokens = _at(places, picked)
        return Drawn(tokens, _at(logs, tokens), _at(chances, picked).log())

    @property
    def _cuts(self) -> bool:
        return bool(self.top_k or self.top_p < 1 or self.min_p)

    def _kept(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [seq, kept], likeliest first, 0 for those cut off, and the tokens they are of."""
        most = min(self.top_k or _LIKELIEST, logs.shape[1])
        found, places = logs.topk(most, 1)
        chances = found.exp()
        whole = chances.sum(1, keepdim=True) if self.top_k else torch.ones_like(chances[:, :1])
        if not self.top_k and most < logs.shape[1] and not self._enough(chances):
            found, places = logs.sort(1, descending=True)
            chances = found.exp()
        before = chances.cumsum(1) - chances
        chances = chances * (before < self.top_p * whole)
        return chances * (chances >= self.min_p * chances[:, :1]), places

    def _enough(self, chances: Tensor) -> bool:
        """Whether none of the tokens that were not sorted would be kept, in any sequence."""
        by_mass = chances.sum(1) >= self.top_p if self.top_p < 1 else torch.zeros_like(chances[:, 0], dtype=torch.bool)
        by_ratio = chances[:, -1] < self.min_p * chances[:, 0]
        return bool((by_mass | by_ratio).all())


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """The index [seq] at which the running sum of `chances` [seq, choice] passes `uniform` [seq] times their sum.

    A choice of chance 0 is never drawn. Summed in runs, which is faster and more exact than one by one.
    """
    count = chances.shape[1]
    runs = torch.nn.functional.pad(chances, (0, -count % _RUN)).unflatten(1, (-1, _RUN))
    ends = runs.sum(2).cumsum(1)
    target = uniform * ends[:, -1]
    run = _passed(ends, target)
    inside = torch.gather(runs, 1, run[:, None, None].expand(-1, 1, _RUN))[:, 0]
    before = _at(ends, run) - inside.sum(1)
    found = run * _RUN + _passed(inside.cumsum(1), target - before)
    # Rounding can point behind the last choice that has a chance, or at one that has none.
    missed = (found >= count) | (_at(chances, found.clamp(max=count - 1)) == 0)
    return torch.where(missed, _nearest(chances, found), found) if bool(missed.any()) else found


def _nearest(chances: Tensor, found: Tensor) -> Tensor:
    """The last choice [seq] up to `found` [seq] that has a chance, the first that has one if none comes before."""
    places = torch.arange(chances.shape[1], device=chances.device)
    possible = chances > 0
    before = places.where(possible & (places <= found[:, None]), -1).amax(1)
    return before.where(before >= 0, possible.int().argmax(1))


def _passed(sums: Tensor, target: Tensor) -> Tensor:
    """The first place at which a rising sum [seq, n] is above its target [seq], the last if none is."""
    return torch.searchsorted(sums, target[:, None], right=True)[:, 0].clamp(max=sums.shape[1] - 1)


def _at(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places[:, None])[:, 0]

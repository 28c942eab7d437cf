"""Keys and values while sampling: those of a prompt once for all its completions, those of a completion in its seat.

    prompts   one [kv head, prompt, size] for each layer and prompt, filled in one pass
    seats     [seat, kv head, place, size] for each layer; a completion has a seat until it ends

A query attends to its prompt and to its own seat. All queries of one prompt meet its keys in one matrix product, which
is what makes a group of completions cheaper than as many prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from truing_tensor.spans import Plan

_GROWTH = 64
"""places that a seat grows by"""

Side = list[Tensor]
"""Keys or values, layer by layer."""


@dataclass
class Prompt:
    """Keys and values [kv head, prompt, size] of a prompt, layer by layer."""

    length: int
    keys: Side = field(default_factory=list[Tensor])
    values: Side = field(default_factory=list[Tensor])

    def beginning(self, length: int) -> Prompt:
        """The prompt that so many of its tokens are; the keys and values are the same ones."""
        if length == self.length:
            return self
        return Prompt(length, [side[:, :length] for side in self.keys], [side[:, :length] for side in self.values])


@dataclass(frozen=True)
class Prefill:
    """Attention of prompts in one row that also keeps their keys and values. plan: who sees whom in the row."""

    plan: Plan
    prompts: Sequence[Prompt]

    @property
    def rows(self) -> Tensor:
        """The positions that ask."""
        return self.plan.rows

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [query, head, size], key and value [row, kv head, size]; gives [query, head * size]."""
        lengths = [prompt.length for prompt in self.prompts]
        for prompt, of_key, of_value in zip(self.prompts, key.split(lengths), value.split(lengths), strict=True):
            prompt.keys.append(of_key.transpose(0, 1).contiguous())
            prompt.values.append(of_value.transpose(0, 1).contiguous())
        return self.plan(layer, query, key, value, scale)


class Seats:
    """Keys and values [seat, kv head, place, size] of completions under way, layer by layer."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._keys: Side = []
        self._values: Side = []

    def put(self, layer: int, places: Tensor, key: Tensor, value: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """Put key and value [seat, kv head, size] at each seat's place [seat]; gives both sides up to `reach`."""
        if layer == len(self._keys):
            shape = (self._count, key.shape[1], 0, key.shape[2])
            self._keys.append(key.new_empty(shape))
            self._values.append(value.new_empty(shape))
        if reach > self._keys[layer].shape[2]:
            more = -(-reach // _GROWTH) * _GROWTH - self._keys[layer].shape[2]
            for side in (self._keys, self._values):
                side[layer] = torch.nn.functional.pad(side[layer], (0, 0, 0, more))
        seats = torch.arange(self._count, device=places.device)
        self._keys[layer][seats, :, places] = key
        self._values[layer][seats, :, places] = value
        return self._keys[layer][:, :, :reach], self._values[layer][:, :, :reach]

    def keep(self, seats: Tensor, reach: int) -> None:
        """Give up all seats but these, and the places from `reach` on."""
        self._count = len(seats)
        for side in (self._keys, self._values):
            for layer, held in enumerate(side):
                side[layer] = held[seats, :, :reach].contiguous()


@dataclass(frozen=True)
class Decode:
    """Attention of one new token in each seat.

    prompts: those that are under way, each with the seats of its completions. places [seat]: where in its seat each new
    token goes.
    """

    seats: Seats
    prompts: Sequence[tuple[Prompt, slice | Tensor]]
    places: Tensor
    hidden: Tensor
    """[seat, 1, 1, longest prompt + reach] keys that are not there: behind a shorter prompt, and not written yet"""
    reach: int

    @classmethod
    def of(cls, seats: Seats, prompts: Sequence[tuple[Prompt, Sequence[int]]], places: Sequence[int]) -> Decode:
        """The attention of a step, from the seats of each prompt and the place in every seat."""
        longest = max(prompt.length for prompt, _ in prompts)
        reach = max(places) + 1
        lengths = torch.zeros(len(places), dtype=torch.int64)
        taken: list[tuple[Prompt, slice | Tensor]] = []
        for prompt, mine in prompts:
            lengths[list(mine)] = prompt.length
            run = mine[-1] - mine[0] + 1 == len(mine)
            taken.append((prompt, slice(mine[0], mine[-1] + 1) if run else torch.tensor(mine)))
        at = torch.tensor(places)
        behind = torch.arange(longest)[None, :] >= lengths[:, None]
        later = torch.arange(reach)[None, :] > at[:, None]
        return cls(seats, taken, at, torch.cat([behind, later], 1)[:, None, None], reach)

    def to(self, device: torch.device) -> Decode:
        """This attention on another device."""
        prompts = [(prompt, mine if isinstance(mine, slice) else mine.to(device)) for prompt, mine in self.prompts]
        return Decode(self.seats, prompts, self.places.to(device), self.hidden.to(device), self.reach)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [seat, head, size], key and value [seat, kv head, size]; gives [seat, head * size]."""
        keys, values = self.seats.put(layer, self.places, key, value, self.reach)
        count, kv_heads = key.shape[:2]
        scaled = (query * scale).unflatten(1, (kv_heads, -1))
        longest = self.hidden.shape[3] - self.reach
        scores = scaled.new_empty(count, kv_heads, scaled.shape[2], longest + self.reach)
        scores[..., longest:] = scaled @ keys.transpose(2, 3)
        for prompt, mine in self.prompts:
            of_prompt = _together(scaled[mine]) @ prompt.keys[layer].transpose(1, 2)
            scores[mine, ..., : prompt.length] = _apart(of_prompt, scaled.shape[2])
        weights = scores.masked_fill_(self.hidden, float("-inf")).softmax(3, dtype=torch.float32).to(scores.dtype)
        out = weights[..., longest:] @ values
        for prompt, mine in self.prompts:
            of_prompt = _together(weights[mine][..., : prompt.length]) @ prompt.values[layer]
            out[mine] += _apart(of_prompt, scaled.shape[2])
        return out.flatten(1)


def _together(values: Tensor) -> Tensor:
    """[seat, kv head, head, n] to [kv head, seat * head, n]: all queries that meet the same keys."""
    return values.transpose(0, 1).flatten(1, 2)


def _apart(values: Tensor, heads: int) -> Tensor:
    """[kv head, seat * head, n] back to [seat, kv head, head, n]."""
    return values.unflatten(1, (-1, heads)).transpose(0, 1)

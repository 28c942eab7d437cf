"""Dropout that depends on where a token lies, and not on what lies beside it.

What is dropped of a token follows from the luck of the completion or prompt that it is in, its place in there and the
layer, by a counter and no stream of random numbers (as in Salmon et al. 2011, "Parallel random numbers: as easy as 1,
2, 3"). So a step is the same however it is cut into pieces, in one process and in several, and when a layer is computed
again for the backward pass. A completion that goes forward alone, in a plain row, has torch's own dropout, seeded with
its luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from truing.fields import GROUP, IDS, Batch, Field
from truing_model.layout import lengths_of
from truing_tensor.decoder import Decoder
from truing_tensor.products import filled

LUCK: Field[Tensor] = Field("luck", "seq", "int64")
"""What dropout of a completion, and of the prompt before it, is drawn from, [seq, 2]."""


def drops(model: Any) -> bool:
    """Whether some layer of a model of transformers drops while it learns."""
    return attention_dropout(model) > 0 or any(map(_drops, model.modules()))


def attention_dropout(model: Any) -> float:
    """The share of attention weights that are dropped, which only a plain row can do."""
    config = model.config.get_text_config()
    return getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0)


def with_luck(batch: Batch, seed: int) -> Batch:
    """A step with the LUCK of all its completions."""
    random, group = torch.Generator().manual_seed(seed), batch[GROUP]
    drawn = torch.randint(2**62, (len(group) + len(batch[IDS]),), generator=random)
    of_prompts = drawn[len(group) :]
    return batch.put(LUCK, torch.stack([drawn[: len(group)], of_prompts[group]], 1))


@dataclass
class Places:
    """The places of the shared row that goes forward, as numbers that look random: of all that is in it [row], and of
    what is asked of its last layer."""

    all: Tensor | None = None
    asked: Tensor | None = None

    def put(self, batch: Batch, device: torch.device) -> None:
        """Those of a piece. One whose completions have no luck has none."""
        self.all = self.asked = None
        if LUCK not in batch:
            return
        luck, found, first = batch[LUCK], list[Tensor](), 0
        for prompt, answers in lengths_of(batch):
            found.append(luck[first, 1] + torch.arange(prompt))
            found += [luck[at, 0] + torch.arange(length) for at, length in enumerate(answers, first)]
            first += len(answers)
        self.all = filled(_mixed(torch.cat(found)).int().to(device))

    def ask(self, rows: Tensor) -> None:
        """Of its last layer these rows alone are asked."""
        self.asked = None if self.all is None else self.all[rows]


class Placed(nn.Dropout):
    """torch's dropout, drawn by place. number: of the layer, among those that drop."""

    places: Places
    number: int
    asked: bool

    def forward(self, input: Tensor) -> Tensor:
        """input [..., row, width]."""
        places = self.places.asked if self.asked else self.places.all
        # A part that sees some of the rows alone, as an expert does, cannot know which.
        if not self.training or places is None or len(places) != input.shape[-2]:
            return super().forward(input)
        columns = torch.arange(input.shape[-1], device=input.device) + (self.number << 32)
        hashed = places[:, None] ^ _mixed(columns).int()
        hashed.mul_(_FIRST).bitwise_xor_(hashed >> 15).mul_(_SECOND)
        return input.masked_fill(hashed < round(2**32 * self.p - 2**31), 0.0) * (1 / (1 - self.p))


def drop_by_place(model: nn.Module, decoder: Decoder, places: Places) -> None:
    """Let the dropout of a model be drawn by the places of the row that goes through it. They stay the modules they
    are."""
    asked = {id(part) for whole in decoder.asked_parts() for part in whole.modules()}
    for number, part in enumerate(filter(_drops, model.modules())):
        part.__class__ = Placed
        placed = cast(Placed, part)
        placed.places, placed.number, placed.asked = places, number, id(part) in asked


def _drops(part: nn.Module) -> bool:
    return isinstance(part, nn.Dropout) and part.p > 0


_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
"""multipliers of a hash of 32 bits that spreads every bit over all (C. Wellons, "lowbias32")"""
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _mixed(values: Tensor) -> Tensor:
    """Numbers that look random in all bits, by counters [n] (the last steps of SplitMix64, Steele et al. 2014)."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        values = (values ^ _shifted(values, shift)) * multiplier
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    """To the right, zeros behind, as unsigned numbers are."""
    return (values >> by) & (2 ** (64 - by) - 1)

"""What a plan says of what is sampled: the completions that are learned from, and what a generator takes that writes
them on this machine. What a generator does not say of itself, the one inside of it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

from truing.fields import COMPLETIONS, GROUP, IDS, OPPONENT, PROMPT_TOKENS, SEQ, TOKENS, Batch, fields
from truing.recipe import Phase
from truing.stage import AnySpec, within
from truing_model.encode import Encoder
from truing_model.memory import LOOSE, PASSING
from truing_model.trial import Outline
from truing_tensor.turns import heard_fields

_PASSING = ("KV cache", "next tokens")
_PLACES = 64
"""tokens that the engine makes room for at a time in every seat"""
_DRAWN = 5
"""numbers that are held of a word when a token is drawn: logits, their logarithms and chances, and runs of these"""


def said(spec: AnySpec | None, option: str, default: Any) -> Any:
    """What a component says of an option; else what the first of its kind inside of it says."""
    alike = (each for _, each in within(spec) if each.kind == spec.kind) if spec else ()
    return next((getattr(each, option) for each in alike if hasattr(each, option)), default)


def sampled(batch: Batch, encoder: Encoder, phase: Phase) -> Batch:
    """What a generator could make of the prompts of a batch: every completion as long as it may be, and as many as an
    estimator keeps. Those of an opponent are learned from where the loss asks whose they are."""
    generator = phase.generator
    most, heard = said(generator, "max_new_tokens", 1), said(generator, "hears", 0)
    count = said(generator, "completions", 0) or said(generator, "samples", 1)
    if OPPONENT in (phase.loss.requires() if phase.loss else fields()):
        count += said(generator, "opponents", 0)
    count = min(count, said(phase.advantage, "keep", count))
    prompts = {key: value for key, value in batch.items() if key.dims in ("", "group")}
    groups = torch.arange(len(batch[IDS])).repeat_interleave(count)
    encoded = encoder(Batch({**prompts, GROUP: groups, COMPLETIONS: [""] * len(groups)})).batch
    completions = torch.arange(len(encoded[GROUP]))
    longest = {
        TOKENS: torch.zeros(most * len(completions), dtype=torch.int64),
        SEQ: completions.repeat_interleave(most),
    }
    if heard:
        longest |= heard_fields((most, [(0, [0] * heard)]) for _ in completions)
    return encoded.put_all(longest)


def kv_cache(config: PreTrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of so many tokens: those of a prompt once, and of every completion under way."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    each = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * each * tokens * dtype.itemsize


def sampling(outline: Outline, phase: Phase, steps: Sequence[Batch], libraries: int) -> dict[str, int]:
    """What a generator takes that samples on this machine: a copy of the model, and the keys of what it writes; as much
    again if an opponent listens to the reference. In a process of its own also what that takes, and weights on the way.
    """
    generator = phase.generator
    seats = said(generator, "seats", None)
    if seats is None:
        return {}
    dtype = torch.bfloat16 if outline.bf16 else torch.float32
    seats = seats or (64 if outline.device.type == "cpu" else 256)
    opponents = said(generator, "opponents", 0)
    copies = 2 if opponents and said(generator, "mixture", 0.0) else 1
    group = said(generator, "samples", 1) + opponents
    taken = min(seats, group * max(len(step[IDS]) for step in steps))
    written = taken * math.ceil(said(generator, "max_new_tokens", 0) / _PLACES) * _PLACES
    prompts = max(len(step[PROMPT_TOKENS]) for step in steps)
    cache = kv_cache(outline.config, written + prompts, dtype)
    loose = 1 + LOOSE if outline.device.type == "cpu" else 1
    memory = {
        "generator": copies * dtype.itemsize * outline.size.base,
        "KV cache": int(loose * copies * cache),
        "next tokens": int(loose * _DRAWN * 4 * taken * outline.size.words),
    }
    shared = said(generator, "shared_copies", 0)
    if shared and outline.device.type == "cpu":
        memory |= {"its process": libraries, "shared weights": (shared + copies - 1) * outline.size.weights}
    return memory


def in_turns(memory: Mapping[str, int]) -> bool:
    """Whether learning takes turns with sampling. What samples in a process of its own has a heap of its own."""
    return "generator" in memory and "its process" not in memory


def at_rest(memory: Mapping[str, int]) -> int:
    """Bytes that are not there at the peak: the less of what learning and sampling take in turns, in the same heap."""
    sampling, learning = (sum(memory.get(part, 0) for part in parts) for parts in (_PASSING, PASSING))
    return min(sampling, learning) if in_turns(memory) else 0

"""A model that is not there: counted without weights, and tried out in small.

Parameters are counted on the meta device, where a model has shapes and no values. What a layer keeps for the backward
pass and how long it takes is measured: one and two layers of the model's shape, with random weights, learn from a piece
of the data. A model too wide for that is tried narrower, and what it gives is scaled by width and by work.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig

from truing.bus import Bus
from truing.fields import (
    COLLISION_ENTROPY,
    ENTROPY,
    LOGPROBS,
    PROMPT_TOKENS,
    SCORES,
    TOKENS,
    VALUES,
    Batch,
    Fields,
    fields,
)
from truing.run import Run
from truing.stage import Optimizer, OptimizerSpec
from truing_model import plugin
from truing_model.costs import costs_of, tokens_at_once
from truing_model.forward import HEADS, Network, decoder_for
from truing_model.head import CHUNK, token_logprobs
from truing_model.layout import Costs
from truing_model.lora import add_lora
from truing_model.state import trainable
from truing_tensor.machine import computes_in_bf16, keep_freed_memory

_WORDS = 256
"""the vocabulary of a model that is tried"""
_WORK = 8e9
"""most multiplications of one layer's forward pass on a CPU; a GPU is asked for a hundred times more"""
_PATIENCE = 0.25
"""seconds over which something quick is repeated"""
_MATRIX = 2**25
"""most weights of a vocabulary that is tried"""


class Size(NamedTuple):
    """What a model is made of. parameters: all, adapters and heads among them, and base without. weights, gradients:
    bytes. tensors: how many learn. table: weights of the vocabulary's matrix, words its rows."""

    parameters: int
    trained: int
    base: int
    weights: int
    gradients: int
    tensors: int
    table: int
    words: int
    layers: int
    costs: Costs


class Tried(NamedTuple):
    """What a trial gave, for all layers over one piece: seconds to learn and to look without gradients, bytes that are
    kept, those of one layer alone, and those that wait in the machine's memory instead."""

    learn: float
    look: float
    kept: float
    layer: float
    away: float


class Moved(NamedTuple):
    """What an optimizer takes: seconds per weight, and bytes it keeps per weight and per tensor."""

    seconds: float
    state: float
    scalars: float

    def bytes(self, weights: int, tensors: int) -> int:
        """What it keeps."""
        return round(self.state * weights + self.scalars * tensors)


@dataclass(frozen=True)
class Outline:
    """The options of a model, those of the model it begins from, and its shape."""

    spec: plugin.LanguageModelSpec
    source: plugin.LanguageModelSpec
    config: PreTrainedConfig
    wanted: Fields
    device: torch.device

    @cached_property
    def bf16(self) -> bool:
        return computes_in_bf16(self.spec.dtype, self.device.type, self.config.get_text_config().hidden_size)

    @property
    def held(self) -> torch.dtype:
        """The type of the weights that are loaded."""
        return torch.bfloat16 if self.bf16 and self.spec.lora_rank else torch.float32

    @property
    def scores(self) -> bool:
        return isinstance(self.spec, plugin.RewardModel)

    @property
    def table(self) -> int:
        """Weights of the vocabulary's matrix that get a gradient of their own."""
        return 0 if self.spec.lora_rank else self.size.table

    @property
    def budget(self) -> int:
        return self.spec.micro_tokens or tokens_at_once(self.device.type)

    @cached_property
    def size(self) -> Size:
        with torch.device("meta"):
            base = self._base(copy.deepcopy(self.config))
            costs, count = costs_of(base), sum(value.numel() for value in base.parameters())
            table = base.get_input_embeddings().weight
            whole = nn.ModuleList(self._whole(base, self.spec))
        learning = list(trainable(whole).values())
        return Size(
            parameters=sum(value.numel() for value in whole.parameters()),
            trained=sum(value.numel() for value in learning),
            base=count,
            weights=sum(value.nbytes for value in whole.parameters()),
            gradients=sum(value.nbytes for value in learning),
            tensors=len(learning),
            table=table.numel(),
            words=len(table),
            layers=self.config.get_text_config().num_hidden_layers,
            costs=costs,
        )

    @cached_property
    def narrower(self) -> int:
        """How many times narrower than the model one is that can be tried in seconds."""
        text = self.config.get_text_config()
        parts = [getattr(text, name, None) for name in _WIDTHS]
        work = self.size.costs.token / self.size.layers * self.budget
        room = _WORK * (1 if self.device.type == "cpu" else 100)
        fine = [by for by in (1, 2, 4, 8) if all(part is None or part % by == 0 for part in parts)]
        return next((by for by in fine if work / by**2 <= room), fine[-1])

    @cached_property
    def networks(self) -> tuple[Network, Network]:
        """One layer and two, with few words."""
        # A run does, and what is measured is to be as fast.
        keep_freed_memory()
        return self._network(1), self._network(2)

    @cached_property
    def shared(self) -> bool:
        """Whether rows are shared."""
        return self._decoder(self._base(reduced(self.config, 1, self.narrower)).to(self.device).eval()) is not None

    def tried(self, piece: Batch, rows: int) -> Tried:
        """Learn from a piece with one layer and with two. Layers of a checkpointed model keep what comes in alone."""
        small = piece.put_all({key: piece[key] % _WORDS for key in (PROMPT_TOKENS, TOKENS)})
        kept, passes = zip(*(self._pass(network, small) for network in self.networks), strict=True)
        # Copies of matrices grow with the square of the width, all else that is kept with the width.
        kept = [
            found + (self.narrower - 1) * self._copies(network)
            for found, network in zip(kept, self.networks, strict=True)
        ]
        learning = self._seconds(*(partial(_learn, total) for total in passes))
        for network in self.networks:
            network.eval()
        looking = self._seconds(*(torch.no_grad()(total) for total in passes))
        one, two = zip(kept, learning, looking, strict=True)
        ratio = self.size.costs.token / self.size.layers / costs_of(self.networks[0].base).token
        scales = (self.narrower, ratio, ratio)
        first, more = (
            [value * by for value, by in zip(found, scales, strict=True)]
            for found in (one, [max(b - a, 0.0) for a, b in zip(one, two, strict=True)])
        )
        layers = self.size.layers
        deep = self.spec.lora_layers or layers
        look = first[2] + (layers - 1) * more[2]
        # Where no gradient goes, a layer costs what looking costs, and keeps nothing.
        learn = first[1] + (deep - 1) * more[1] + (layers - deep) * more[2]
        bytes_kept = first[0] + (deep - 1) * more[0]
        if self.spec.gradient_checkpointing:
            between = rows * self.config.get_text_config().hidden_size * (2 if self.bf16 and self.spec.lora_rank else 4)
            return self._where(learn + look, look, deep * between, more[0], again=more[0])
        return self._where(learn, look, bytes_kept, more[0], again=0.0)

    def _where(self, learn: float, look: float, kept: float, layer: float, again: float) -> Tried:
        """again: bytes of a layer that is computed twice."""
        offload = self.spec.activation_offload
        return Tried(learn, look, again + (0.0 if offload else kept), layer, kept if offload else 0.0)

    def _copies(self, network: Network) -> int:
        """Bytes of the copies in bfloat16 that are kept of matrices held in fp32, while they are computed with."""
        if not self.bf16 or self.held is torch.bfloat16:
            return 0
        return sum(2 * part.weight.numel() for part in network.base.modules() if isinstance(part, nn.Linear))

    def moved(self, spec: OptimizerSpec) -> Moved:
        """Let the optimizer move what was tried; its gradients are there."""
        weights = trainable(self.networks[1])
        made: Optimizer = spec.build(Run("plan", Path(), 0, Bus()))
        optimizer, _ = made.over(weights, 100)
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)

        def move() -> None:
            torch.nn.utils.clip_grad_norm_(weights.values(), made.clip or float("inf"))
            optimizer.step()

        (seconds,) = self._seconds(move)
        kept = optimizer.state_dict()["state"].values()
        slots = [value for state in kept for value in state.values() if hasattr(value, "numel")]
        count = sum(weight.numel() for weight in weights.values())
        scalars = sum(value.nbytes for value in slots if value.numel() == 1) / len(weights)
        state = sum(value.nbytes for value in slots if value.numel() > 1) / count
        return Moved(seconds / count, state, scalars)

    def head(self, rows: int) -> tuple[float, float]:
        """Seconds per token of a vocabulary, to learn and to look."""
        if self.scores:
            return 0.0, 0.0
        width = self.size.table // self.size.words
        words, rows = min(self.size.words, _MATRIX // width), min(rows, CHUNK)
        hidden = torch.randn(rows, width, device=self.device, dtype=self.held, requires_grad=True)
        weight = torch.randn(words, width, device=self.device, dtype=self.held, requires_grad=not self.spec.lora_rank)
        targets = torch.zeros(rows, dtype=torch.int64, device=self.device)
        compute = torch.bfloat16 if self.bf16 else self.held

        def look() -> torch.Tensor:
            entropy, collision = ENTROPY in self.wanted, COLLISION_ENTROPY in self.wanted
            found = token_logprobs(hidden, weight, targets, compute, with_entropy=entropy, with_collision=collision)
            return found.logprobs.sum()

        seconds = self._seconds(partial(_learn, look), torch.no_grad()(look))
        learn, look_only = (found * self.size.words / words / rows for found in seconds)
        return learn, look_only

    def _base(self, config: PreTrainedConfig) -> Any:
        """A model of a shape; its weights mean nothing."""
        kind = AutoModelForSequenceClassification if self.scores else AutoModelForCausalLM
        if isinstance(self.spec, plugin.RewardModel):
            config.num_labels = self.spec.members
        strange = getattr(self.source, "trust_remote_code", False)
        return kind.from_config(config, dtype=self.held, trust_remote_code=strange)

    def _whole(self, base: Any, spec: plugin.LanguageModelSpec) -> tuple[nn.Module, nn.ModuleDict]:
        """A model with its adapters, and its heads."""
        heads: dict[str, nn.Module] = {HEADS[SCORES]: base.score} if self.scores else {}
        if spec.value_head:
            heads[HEADS[VALUES]] = nn.Linear(base.config.get_text_config().hidden_size, 1)
        model = add_lora(base, cast(plugin.CausalLm, spec)) if spec.lora_rank else base
        for head in heads.values():
            head.requires_grad_(True)
        return model, nn.ModuleDict(heads)

    def _decoder(self, base: Any) -> Any:
        return decoder_for(base, "plain" if self.spec.layout == "plain" else "auto", self.spec.max_tokens)

    def _network(self, layers: int) -> Network:
        base = self._base(reduced(self.config, layers, self.narrower)).to(self.device).eval()
        decoder = self._decoder(base)
        gives = fields(SCORES) if self.scores else fields(LOGPROBS)
        gives |= fields(VALUES) if self.spec.value_head else fields()
        # All of its few layers learn; how many of the model's do is counted afterwards.
        model, heads = self._whole(base, msgspec.structs.replace(self.spec, lora_layers=0))
        return Network(model, decoder, dict(heads.items()), gives, self.bf16).to(self.device)

    def _pass(self, network: Network, piece: Batch) -> tuple[float, Callable[[], torch.Tensor]]:
        """The bytes that a piece's forward pass keeps for the backward pass, and the pass itself."""
        own = {value.untyped_storage().data_ptr() for value in network.parameters()}
        kept: dict[int, int] = {}

        def keep(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        def total() -> torch.Tensor:
            return torch.stack([value.sum() for value in network(piece).values()]).sum()

        network.train()
        with saved_tensors_hooks(keep, lambda value: value):
            _learn(total)
        return sum(kept.values()), total

    def _seconds(self, *works: Callable[[], object]) -> list[float]:
        """The fastest of a few of each, and of many where they are quick: noise only ever adds time. They take turns,
        so that what disturbs the one disturbs the other."""
        found: list[list[float]] = [[] for _ in works]
        while len(found[0]) < 3 or (sum(map(sum, found)) < _PATIENCE and len(found[0]) < 30):
            for work, times in zip(works, found, strict=True):
                self._wait()
                began = time.perf_counter()
                work()
                self._wait()
                times.append(time.perf_counter() - began)
        return [min(times) for times in found]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _learn(total: Callable[[], torch.Tensor]) -> None:
    total().backward()


_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


def reduced(config: PreTrainedConfig, layers: int, by: int) -> PreTrainedConfig:
    """A shape with a few layers, so many times narrower, and few words."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    for name in _WIDTHS:
        if by > 1 and getattr(text, name, None) is not None:
            setattr(text, name, getattr(text, name) // by)
    text.vocab_size = _WORDS
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    return small


def layers_alone(costs: Costs) -> Costs:
    """What a pass costs but for the vocabulary."""
    return replace(costs, head=0.0)

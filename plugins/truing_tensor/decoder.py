"""The layers of a causal language model on one flat row of tokens, with attention left to the caller.

    tokens, positions [row] -> embedding -> layer by layer, `attend` in each -> norm -> hidden [rows, width]

The caller's `attend` says what a query sees: a plan for shared rows when learning, a cache of keys when sampling. So a
padded batch never exists, and learning and sampling go through the same arithmetic. Of the last layer only the rows
that somebody reads are computed.

Models whose layers are built as Llama's are (Qwen, Mistral, SmolLM and most others) go through layers written here. Any
other goes through transformers' own layers with our attention in them. Which of the two is asked of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from truing_tensor.fused import rms_norm, rotate
from truing_tensor.products import down, each, speed_up
from truing_tensor.spans import Lengths, row_plan


class Attend(Protocol):
    """What the queries of a layer see."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [query, head, size], key and value [row, kv head, size]; gives [query, head * size]."""
        ...


class Some(Attend, Protocol):
    """What some rows of a layer see, rows [query]."""

    @property
    def rows(self) -> Tensor: ...


class Decoder:
    """The layers of a model of transformers. The weights stay the model's, adapters in them included.

    own_layers: whether they go through the layers written here. Raises ValueError for a model that gives other numbers
    with attention left to the caller.
    """

    def __init__(self, model: Any) -> None:
        self._decoder = model.get_decoder()
        self.checkpointing = False
        self._called = False
        speed_up(self._decoder)
        with _in_fp32(self._decoder):
            expected = _one_by_one(model)
            self.own_layers = _like_llama(self._decoder) and _gives(self._through_own_layers, expected)
            if self.own_layers:
                return
            before = model.config._attn_implementation
            model.set_attn_implementation(_left_to_the_caller())
            if not _gives(self._through_transformers, expected):
                model.set_attn_implementation(before)
                raise ValueError(f"{type(model).__name__} gives other numbers with attention left to the caller")

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend, last: Some | None = None) -> Tensor:
        """Hidden states [row, width] behind the last norm; with `last`, of its rows alone."""
        if self.own_layers:
            return self._through_own_layers(tokens, positions, attend, last)
        hidden = self._through_transformers(tokens, positions, attend)
        return hidden if last is None else hidden[last.rows]

    def _through_transformers(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        inputs = {"input_ids": tokens[None], "position_ids": positions[None], "use_cache": False}
        hidden: Tensor = self._decoder(**inputs, truing_attend=attend).last_hidden_state
        return hidden[0]

    def _through_own_layers(
        self, tokens: Tensor, positions: Tensor, attend: Attend, last: Some | None = None
    ) -> Tensor:
        hidden: Tensor = self._decoder.embed_tokens(tokens)
        cos, sin = self._decoder.rotary_emb(hidden[None], positions[None])
        half = cos.shape[-1] // 2
        turns = cos[0, :, None, :half], sin[0, :, None, :half]
        layers: list[Any] = list(self._decoder.layers)
        call = nn.Module.__call__ if self._called else self._run
        for layer in layers[: len(layers) - (last is not None)]:
            hidden = call(layer, hidden, turns, attend, None)
        if last is not None:
            hidden = call(layers[-1], hidden, turns, last, last.rows)
        return _norm(self._decoder.norm, hidden)

    def call_layers(self) -> None:
        """From now on call each layer as the module it is, so that what hangs on its calls is heard."""
        if self.own_layers:
            self._called = True
            for layer in self._decoder.layers:
                layer.forward = partial(self._run, layer)

    def asked_parts(self) -> list[nn.Module]:
        """Parts that are given the rows of `last` alone, where it says which."""
        if not self.own_layers:
            return []
        layer: Any = self._decoder.layers[-1]
        return [layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp]

    def _run(self, layer: Any, *arguments: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(_layer, layer, *arguments, use_reentrant=False)
        return _layer(layer, *arguments)


def plain_head(model: nn.Module) -> Tensor | None:
    """The vocabulary's matrix if it alone makes logits out of the last hidden states, else None.

    Asked of the model itself: one that caps, scales or shifts its logits gives other numbers, and goes its own way.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return None
    tokens = torch.tensor([[5, 6, 7]], device=head.weight.device)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        same = torch.allclose(head(hidden), model(input_ids=tokens, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    return head.weight if same else None


def _layer(layer: Any, hidden: Tensor, turns: tuple[Tensor, Tensor], attend: Attend, rows: Tensor | None) -> Tensor:
    """One layer of the kind of Llama; with `rows`, its output at these rows alone."""
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, hidden)
    asked, told = [attention.q_proj], [attention.k_proj, attention.v_proj]
    sides = each(asked + told, normed) if rows is None else each(asked, normed[rows]) + each(told, normed)
    query, key, value = (side.unflatten(1, (-1, attention.head_dim)) for side in sides)
    if hasattr(attention, "q_norm"):
        query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
    cos, sin = turns
    of_query = turns if rows is None else (cos[rows], sin[rows])
    query, key = rotate(query, *of_query), rotate(key, *turns)
    seen = attend(attention.layer_idx, query, key, value, attention.scaling)
    hidden = (hidden if rows is None else hidden[rows]) + attention.o_proj(seen)
    mlp = layer.mlp
    normed = _norm(layer.post_attention_layernorm, hidden)
    return hidden + down(mlp.down_proj, *each([mlp.gate_proj, mlp.up_proj], normed))


def _norm(norm: Any, x: Tensor) -> Tensor:
    flat: Tensor = rms_norm(x.flatten(0, -2), norm.weight, norm.variance_epsilon)
    return flat.view(x.shape)


_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}


def _like_llama(decoder: Any) -> bool:
    """Whether every layer has Llama's parts and no others."""
    if not {"embed_tokens", "layers", "norm", "rotary_emb"} <= _parts(decoder):
        return False
    return all(
        _parts(layer) == _LAYER
        and _parts(layer.mlp) == _MLP
        and _parts(layer.self_attn) in (_ATTENTION, _ATTENTION | _HEAD_NORMS)
        for layer in decoder.layers
    )


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


_BEYOND = ("softcap", "s_aux")
"""What some models ask of attention beyond a scaled softmax."""


@cache
def _left_to_the_caller() -> str:
    """The name under which transformers calls the attention that its caller hands over as `truing_attend`."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        attend: Attend | None = options.pop("truing_attend", None)
        if attend is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        if unknown := [name for name in _BEYOND if options.get(name) is not None]:
            raise ValueError(f"attention with {', '.join(unknown)} cannot be left to the caller")
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        seen = attend(module.layer_idx, *(side[0].transpose(0, 1) for side in (query, key, value)), scale)
        return seen.view(1, len(seen), query.shape[1], -1), None

    AttentionInterface.register("truing", attention)
    return "truing"


_PROBE: Lengths = ((4, (3, 2)), (3, (4,)))
_PROBED = ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 7, 8], [9, 10, 11, 12, 13, 14, 15])
_PROBE_TOKENS = torch.arange(5, 21)
_POSITIONS = [0, 1, 2, 3, 4, 5, 6, 4, 5, *range(7)]


@contextmanager
def _in_fp32(module: nn.Module) -> Iterator[None]:
    """Its weights in fp32 meanwhile: the rounding of bf16 alone takes a trained model of 30 layers a tenth away from
    itself, and hides what is to be found. Back again they are bit for bit what they were."""
    before = [(weight, weight.dtype) for weight in module.parameters()]
    for weight, _ in before:
        weight.data = weight.data.float()
    try:
        yield
    finally:
        for weight, dtype in before:
            weight.data = weight.data.to(dtype)


@torch.no_grad()
def _one_by_one(model: Any) -> list[Tensor]:
    """What the model itself gives for each completion of the probe behind its prompt."""
    tokens = _PROBE_TOKENS.to(model.device)
    return [model.get_decoder()(input_ids=tokens[rows][None], use_cache=False).last_hidden_state[0] for rows in _PROBED]


@torch.no_grad()
def _gives(hidden_states: Callable[[Tensor, Tensor, Attend], Tensor], expected: list[Tensor]) -> bool:
    """Whether the probe in one row gives what its completions give one by one."""
    device = expected[0].device
    positions = torch.tensor(_POSITIONS, device=device)
    try:
        found = hidden_states(_PROBE_TOKENS.to(device), positions, row_plan(_PROBE).all.to(device))
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return False
    return all(
        bool((found[rows] - alone).abs().max() <= 1e-3 * alone.abs().max())
        for rows, alone in zip(_PROBED, expected, strict=True)
    )

"""Who attends to whom in a row of prompts and completions, and the attention itself, without a mask for all pairs.

    row      [ prompt A | answer A1 | answer A2 | prompt B | answer B1 ]
    A2 sees  [ prompt A |           | itself, up to the token           ]

A `Block` is a run of queries with the keys they see: all of a prefix, and of their own span up to themselves. On a CPU
each block is a few matrix products over just these keys; on a GPU the same plan is a block mask of FlexAttention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truing_tensor.fused import exact_type
from truing_tensor.products import filled
from truing_tensor.segments import owners

QUERIES = 128
"""most queries of one block: shorter blocks see fewer keys in vain, longer ones are fewer calls"""
_KEPT = 2**21
"""largest number of attention weights of a block that is kept for the backward pass; more are made again"""

Span = tuple[int, int]


class Block(NamedTuple):
    """Consecutive queries and what they see: all keys of `prefix`, and key c of `own` if c <= r + diagonal, for the
    r-th query of the block."""

    queries: Span
    prefix: Span
    own: Span
    diagonal: int


def causal(queries: Span, own: Span, prefix: Span = (0, 0), late: int = 0) -> Iterator[Block]:
    """Blocks of queries that lie along their own keys, each seeing `prefix` and its own up to `late` before itself."""
    first, last = queries
    for start in range(first, last, QUERIES):
        stop = min(start + QUERIES, last)
        seen = min(own[1], own[0] + stop - first - late)
        yield Block((start, stop), prefix, (own[0], max(own[0], seen)), start - first - late)


@dataclass(frozen=True)
class Plan:
    """What some positions of a row see of it.

    rows [query]: the positions that ask. blocks: in the order of the queries, each query in one of them. group, seq
    [row]: of which prompt and of which completion a position is, -1 for a prompt's own.
    """

    blocks: Sequence[Block]
    rows: Tensor
    group: Tensor
    seq: Tensor

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention [query, head * size] of query [query, head, size] over key and value [row, kv head, size]."""
        if query.is_cuda:
            return _flex(query, key, value, scale, self.mask)
        out: Tensor = BlockAttention.apply(query, key, value, scale, self.blocks)
        return out

    @cached_property
    def mask(self) -> Any:
        """The same as a block mask of FlexAttention."""
        from torch.nn.attention.flex_attention import create_block_mask

        # A bound method is not taken for a function there.
        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return self.sees(query, key)

        return create_block_mask(sees, None, None, len(self.rows), len(self.seq), device=str(self.rows.device))

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query sees a key: of the same group, no later, and of the prompt or of its own completion."""
        row = self.rows[query]
        visible = (self.seq[key] == -1) | (self.seq[key] == self.seq[row])
        return visible & (self.group[key] == self.group[row]) & (key <= row)

    def filled(self) -> Plan:
        """This plan, `filled` up with queries that see nothing: what comes of them is to be left out."""
        return replace(self, rows=filled(self.rows))

    def to(self, device: torch.device) -> Plan:
        """This plan on another device."""
        return Plan(self.blocks, *(part.to(device) for part in (self.rows, self.group, self.seq)))


Lengths = Sequence[tuple[int, Sequence[int]]]
"""Of each group in a row: how long its prompt is, and each of its completions."""


class Seen(NamedTuple):
    """Where a completion lies: its first token along `token` and in the row, how long it is, and what it sees: all of
    `prefix`, and of `own` up to itself."""

    token: int
    row: int
    length: int
    prefix: Span
    own: Span


@dataclass(frozen=True)
class RowPlan:
    """A row of groups, each prompt followed by its completions.

    all: the plan of every position. completions: where each lies. predictors: the plan of the positions that predict a
    completion token, in the order of the tokens.
    """

    all: Plan
    predictors: Plan
    completions: Sequence[Seen]

    def at(self, tokens: Sequence[int]) -> Plan:
        """The plan of some completion tokens alone, by their place along `token`, in rising order."""
        blocks: list[Block] = []
        rows: list[int] = []
        found = iter(self.completions)
        seen = next(found)
        for number, token in enumerate(tokens):
            while token >= seen.token + seen.length:
                seen = next(found)
            rows.append(seen.row + token - seen.token)
            own = (seen.own[0], rows[-1] + 1)
            blocks.append(Block((number, number + 1), seen.prefix, own, own[1] - own[0] - 1))
        return Plan(blocks, torch.tensor(rows, dtype=torch.int64), self.all.group, self.all.seq)

    def ends(self) -> Plan:
        """The plan of the last token of each completion."""
        return self.at([seen.token + seen.length - 1 for seen in self.completions])


def row_plan(groups: Lengths) -> RowPlan:
    """Lay groups out in one row and say who sees what."""
    every: list[Block] = []
    predict: list[Block] = []
    completions: list[Seen] = []
    sizes, of, predictors = [], [], []
    at = token = 0
    for group, (prompt, answers) in enumerate(groups):
        start = at
        # A single completion is one run with its prompt; several see the prompt as a prefix they share.
        prefix = (start, start + prompt) if len(answers) > 1 else (start, start)
        every += causal(prefix, prefix)
        at += prompt
        sizes.append(prompt)
        of.append((group, -1))
        for answer in answers:
            own = (at if len(answers) > 1 else start, at + answer)
            every += causal(own, own, prefix)
            predict += causal((token, token + answer), own, prefix, late=1 - (at - own[0]))
            assert answer, "a completion has its end token at least"
            predictors += [torch.tensor([start + prompt - 1]), torch.arange(at, at + answer - 1)]
            sizes.append(answer)
            of.append((group, len(completions)))
            completions.append(Seen(token, at, answer, prefix, own))
            at, token = at + answer, token + answer
    whose = torch.tensor(of)[owners(sizes)].T
    whole = Plan(every, torch.arange(at), *whose)
    return RowPlan(whole, Plan(predict, torch.cat(predictors), *whose), completions)


def prompt_plans(rows: Sequence[Sequence[int]]) -> tuple[Plan, Plan]:
    """Prompts alone in one row: the plan of every position, and that of the last token of each prompt, in their order.

    rows: the lengths of prompts that lie one upon the other, each the beginning of the longest of them.
    """
    every: list[Block] = []
    ends: list[Block] = []
    last: list[int] = []
    at = 0
    for lengths in rows:
        own = (at, at + max(lengths))
        every += causal(own, own)
        for length in lengths:
            ends.append(Block((len(last), len(last) + 1), (at, at), (at, at + length), length - 1))
            last.append(at + length - 1)
        at = own[1]
    group = owners([max(lengths) for lengths in rows])
    seq = torch.full_like(group, -1)
    return Plan(every, torch.arange(at), group, seq), Plan(ends, torch.tensor(last), group, seq)


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan that asks for all of these, one after another, of the same row."""
    if len(plans) == 1:
        return plans[0]
    blocks: list[Block] = []
    shift = 0
    for plan in plans:
        blocks += [
            block._replace(queries=(block.queries[0] + shift, block.queries[1] + shift)) for block in plan.blocks
        ]
        shift += len(plan.rows)
    return Plan(blocks, torch.cat([plan.rows for plan in plans]), plans[0].group, plans[0].seq)


class BlockAttention(torch.autograd.Function):
    """Attention block by block: the weights of a block are kept if they are few, else made again.

    With S = scale Q K', P = softmax(S), O = P V:
        dV = P' dO     dP = dO V'     dS = P * (dP - rowsum(P * dP))     dQ = scale dS K     dK = scale dS' Q
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, blocks: Sequence[Block]) -> Tensor:
        """query [query, head, size], key and value [key, kv head, size]; gives [query, head * size], 0 behind the
        queries of the last block."""
        times = query.shape[1] // key.shape[1]
        scaled = (query * scale).transpose(0, 1)
        keys, values = _by_head(key, times), _by_head(value, times)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        out[blocks[-1].queries[1] :] = 0
        kept: list[Tensor] = []
        for block in blocks:
            weights = _weights(scaled, keys, block)
            out[slice(*block.queries)] = torch.bmm(weights, _seen_by(block, values)).transpose(0, 1)
            kept.append(weights if weights.numel() <= _KEPT else weights.new_empty(0))
        ctx.blocks, ctx.scale, ctx.times = blocks, scale, times
        ctx.save_for_backward(scaled, keys, values, *kept)
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key and value."""
        scaled, keys, values, *kept = ctx.saved_tensors
        heads, count, size = scaled.shape
        of_out = gradients[0].view(count, heads, size).transpose(0, 1)
        to_query = scaled.new_empty(count, heads, size)
        to_query[ctx.blocks[-1].queries[1] :] = 0
        to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
        for block, weights in zip(ctx.blocks, kept, strict=True):
            at = slice(*block.queries)
            found = weights if weights.numel() else _weights(scaled, keys, block)
            _add(to_values, block, torch.bmm(found.transpose(1, 2), of_out[:, at]))
            of_weights = torch.bmm(of_out[:, at], _seen_by(block, values).transpose(1, 2))
            of_scores = _softmax_backward(of_weights, found)
            to_query[at] = torch.bmm(of_scores, _seen_by(block, keys)).transpose(0, 1)
            _add(to_keys, block, torch.bmm(of_scores.transpose(1, 2), scaled[:, at]))
        to_query *= ctx.scale
        return to_query, _by_row(to_keys, ctx.times), _by_row(to_values, ctx.times), None, None


def _weights(scaled: Tensor, keys: Tensor, block: Block) -> Tensor:
    """Attention weights [head, query, key] of a block, its prefix's keys first."""
    scores = torch.bmm(scaled[:, slice(*block.queries)], _seen_by(block, keys).transpose(1, 2))
    own = block.own[1] - block.own[0]
    first = max(block.diagonal + 1, 0)
    if first < own:
        hidden = _hidden(scores.shape[1], own - first, block.diagonal - first)
        scores[..., scores.shape[2] - own + first :].masked_fill_(hidden.to(scores.device), float("-inf"))
    return torch.softmax(scores, -1, dtype=exact_type(scores)).to(scores.dtype)


@cache
def _hidden(queries: int, keys: int, diagonal: int) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool).triu(diagonal + 1)


def _seen_by(block: Block, values: Tensor) -> Tensor:
    """What a block sees of [head, key, size]; a copy only where prefix and own do not touch."""
    (start, middle), (begin, stop) = block.prefix, block.own
    if start == middle:
        return values[:, begin:stop]
    if begin == stop:
        return values[:, start:middle]
    if middle == begin:
        return values[:, start:stop]
    return torch.cat([values[:, start:middle], values[:, begin:stop]], 1)


def _add(into: Tensor, block: Block, part: Tensor) -> None:
    """Add what a block gives to the keys it saw."""
    length = block.prefix[1] - block.prefix[0]
    if length:
        into[:, slice(*block.prefix)] += part[:, :length]
    if part.shape[1] > length:
        into[:, slice(*block.own)] += part[:, length:]


def _softmax_backward(of_weights: Tensor, weights: Tensor) -> Tensor:
    exact = weights.to(exact_type(weights))
    found = torch.ops.aten._softmax_backward_data(of_weights.to(exact.dtype), exact, -1, exact.dtype)
    return found.to(weights.dtype)


def _by_head(values: Tensor, times: int) -> Tensor:
    """[key, kv head, size] to [head, key, size], every head of keys repeated for the heads of queries it serves."""
    moved = values.transpose(0, 1)
    return moved if times == 1 else moved.repeat_interleave(times, 0)


def _by_row(values: Tensor, times: int) -> Tensor:
    heads, count, size = values.shape
    summed = values if times == 1 else values.view(heads // times, times, count, size).sum(1)
    return summed.transpose(0, 1)


def _flex(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Any) -> Tensor:
    """The same attention by FlexAttention, which is compiled when it is first called."""
    sides = (side.transpose(0, 1)[None] for side in (query, key, value))
    out = _compiled_flex()(*sides, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])
    return out[0].transpose(0, 1).flatten(1)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)

"""How a step is laid out: groups to pieces that go forward one after another, and a piece to rows.

    shared   [ prompt A | answer A1 | answer A2 | prompt B | answer B1 ... ]   one row, several groups
    plain    [ prompt A | answer A1 ]  [ prompt A | answer A2 ]  ...           one row per completion

In a shared row a token attends to what came before it in its own prompt and in its own answer, and to nothing else;
positions restart behind the prompt for every answer. No row is padded to the length of another.

What was heard between the turns of a completion lies in the row where it was read, so what follows attends to it; it is
no target, and no field along `token` knows of it.

Pieces hold at most so many tokens. Those of several ranks, which wait for each other, are balanced by what they cost;
those of one are few and alike in size. A group that is larger than a piece is cut between its completions, each part
with the prompt of its own. No other group is: attention that computes only what is seen makes a shared prompt the
cheaper way at every length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truing.fields import GROUP, HEARD, HEARD_BEFORE, IDS, PROMPT_GROUP, PROMPT_TOKENS, SEQ, TOKENS, Batch, Field
from truing_tensor.groups import places, take
from truing_tensor.products import filled_up
from truing_tensor.segments import owners
from truing_tensor.spans import Lengths, RowPlan, row_plan


@dataclass(frozen=True)
class Row:
    """One row of a forward pass.

    tokens, positions [row]; targets [token]: the completion tokens; plan: who sees whom, and from where each token of a
    completion is predicted; said [token]: which of these are targets, and not what was heard.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    plan: RowPlan
    said: Tensor


@dataclass(frozen=True)
class Costs:
    """What a forward pass costs, in multiplications.

    token: of the layers, for each position. pair: of attention, for each query and each key it sees, weighed by how
    much slower those run. head: of the vocabulary, for each completion token.
    """

    token: float
    pair: float
    head: float

    def group(self, prompt: int, answers: Sequence[int]) -> float:
        """The cost of a group whose prompt is computed once."""
        seen = prompt * prompt / 2 + sum(answer * (prompt + answer / 2) for answer in answers)
        return self.token * (prompt + sum(answers)) + self.pair * seen + self.head * sum(answers)


class Pieces(NamedTuple):
    """A step, cut. places: of each piece, where along each dim what it holds lies in the step. cut: some group was cut
    between its completions, so a loss that looks at whole groups cannot be asked piece by piece."""

    batches: list[Batch]
    places: list[Mapping[str, Tensor]]
    cut: bool


def cut_into_pieces(batch: Batch, budget: int, costs: Costs, multiple_of: int = 1) -> Pieces:
    """Cut a step into pieces of at most `budget` tokens, their number a multiple of the ranks.

    A single completion longer than the budget is a piece of its own. The same step is always cut the same way.
    """
    fine = regrouped(batch, budget)
    lengths = lengths_of(fine)
    sizes = [prompt + sum(answers) for prompt, answers in lengths]
    if multiple_of == 1:
        parts = alike(sizes, budget)
    else:
        parts = balanced([costs.group(*group) for group in lengths], sizes, budget, multiple_of)
    found = [take(fine, groups) for groups in parts]
    return Pieces(found, [places(fine, groups) for groups in parts], fine is not batch)


def balanced(weights: Sequence[float], sizes: Sequence[int], budget: int, multiple_of: int = 1) -> list[list[int]]:
    """Groups to bins whose sizes stay within the budget and whose weights are alike: the heaviest first, each into the
    lightest bin that has room for it, and new bins where none has. Empty bins are left out."""
    count = math.ceil(max(1, math.ceil(sum(sizes) / budget)) / multiple_of) * multiple_of
    content: list[list[int]] = [[] for _ in range(count)]
    load, room = [0.0] * count, [budget] * count
    for group in sorted(range(len(weights)), key=lambda at: (-weights[at], at)):
        if not any(sizes[group] <= space or not inside for space, inside in zip(room, content, strict=True)):
            content += [[] for _ in range(multiple_of)]
            load += [0.0] * multiple_of
            room += [budget] * multiple_of
        fitting = [at for at in range(len(content)) if sizes[group] <= room[at] or not content[at]]
        best = min(fitting, key=lambda at: (load[at], at))
        content[best].append(group)
        load[best] += weights[group]
        room[best] -= sizes[group]
    return [sorted(groups) for groups in content if groups]


def alike(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Groups to few bins of about the same size, within the budget, of whose rows few are `filled_up` in vain. A group
    over the budget has a bin of its own."""
    left = sorted(range(len(sizes)), key=lambda at: (-sizes[at], at))
    bins: list[list[int]] = []
    while left:
        taken = left[:1] if sizes[left[0]] > budget else _next_bin(left, sizes, budget)
        bins.append(sorted(taken))
        left = [at for at in left if at not in bins[-1]]
    return bins


def _next_bin(left: list[int], sizes: Sequence[int], budget: int) -> list[int]:
    """Those of the groups left that make up a bin: of the sums near an even share, the one with least in vain."""
    whole = sum(sizes[at] for at in left)
    if whole <= budget:
        return left
    # Bit s of reached[n] says whether some of the first n groups come to s.
    reached = [1]
    for at in left:
        reached.append((reached[-1] | reached[-1] << sizes[at]) & ((2 << budget) - 1))
    sums = [total for total in range(1, budget + 1) if reached[-1] >> total & 1]
    # How many bins there are to be, of which the others must be able to hold the rest.
    count = next(n for n in range(math.ceil(whole / budget), len(left) + 1) if whole - sums[-1] <= (n - 1) * budget)
    share = whole / count
    sums = [total for total in sums if whole - total <= (count - 1) * budget]
    near = [total for total in sums if abs(total - share) <= budget / 8] or [min(sums, key=lambda s: abs(s - share))]
    in_vain = {total: filled_up(total) - total for total in {*near, *(whole - total for total in near)}}
    total = min(near, key=lambda total: (in_vain[total] + in_vain[whole - total] * (count == 2), abs(total - share)))
    taken: list[int] = []
    for number in reversed(range(len(left))):
        if not reached[number] >> total & 1:
            taken.append(left[number])
            total -= sizes[left[number]]
    return taken


def regrouped(batch: Batch, budget: int) -> Batch:
    """The batch with every group larger than the budget cut between its completions; itself if there is none.

    Completions and their tokens keep their order, so what runs along them is as in the batch. Pairs, which may compare
    completions that are apart now, are left out.
    """
    lengths = lengths_of(batch)
    parts = [_parts(prompt, answers, budget) for prompt, answers in lengths]
    if all(len(part) == 1 for part in parts):
        return batch
    origin = [group for group, part in enumerate(parts) for _ in part]
    prompts = batch[PROMPT_TOKENS].split([prompt for prompt, _ in lengths])
    values: dict[Field[Any], Any] = {}
    for key, value in batch.items():
        if key.dims == "group":
            values[key] = value[origin] if isinstance(value, Tensor) else [value[group] for group in origin]
        elif key.dims not in ("pair", "prompt_token"):
            values[key] = value
    values[GROUP] = owners([size for part in parts for size in part])
    values[PROMPT_TOKENS] = torch.cat([prompts[group] for group in origin])
    values[PROMPT_GROUP] = owners([lengths[group][0] for group in origin])
    return Batch(values)


def only_some(batch: Batch, kept: Tensor) -> Batch:
    """What a forward pass needs of some completions: `kept` [seq] says of which. Their tokens keep their order."""
    group, seq = batch[GROUP], batch[SEQ]
    left = torch.unique(group[kept])
    prompt_tokens = torch.isin(batch[PROMPT_GROUP], left)
    tokens = kept[seq]
    heard: dict[Field[Any], Any] = {}
    if HEARD in batch:
        also = tokens[batch[HEARD_BEFORE]]
        heard = {HEARD: batch[HEARD][also], HEARD_BEFORE: (tokens.cumsum(0) - 1)[batch[HEARD_BEFORE][also]]}
    return Batch(
        {
            **heard,
            IDS: [batch[IDS][at] for at in left.tolist()],
            GROUP: torch.searchsorted(left, group[kept]),
            PROMPT_TOKENS: batch[PROMPT_TOKENS][prompt_tokens],
            PROMPT_GROUP: torch.searchsorted(left, batch[PROMPT_GROUP][prompt_tokens]),
            TOKENS: batch[TOKENS][tokens],
            SEQ: (kept.cumsum(0) - 1)[seq[tokens]],
        }
    )


def _parts(prompt: int, answers: Sequence[int], budget: int) -> list[int]:
    """How many completions go into each part of a group, in their order."""
    parts: list[int] = []
    used = budget
    for answer in answers:
        if used + answer > budget:
            parts.append(0)
            used = prompt
        parts[-1] += 1
        used += answer
    return parts


def lengths_of(batch: Batch) -> Lengths:
    """How long the prompt of each group is, and each of its completions, in tokens, what was heard among them."""
    group = batch[GROUP]
    assert bool((group[1:] >= group[:-1]).all()), "completions of a batch lie in the order of their groups"
    prompts = torch.bincount(batch[PROMPT_GROUP], minlength=len(batch[IDS])).tolist()
    sizes = torch.bincount(batch[SEQ], minlength=len(group))
    if HEARD in batch:
        sizes = sizes + torch.bincount(batch[SEQ][batch[HEARD_BEFORE]], minlength=len(group))
    answers = sizes.split(torch.bincount(group, minlength=len(batch[IDS])).tolist())
    return [(prompt, part.tolist()) for prompt, part in zip(prompts, answers, strict=True)]


def whole_answers(batch: Batch) -> tuple[Tensor, Tensor]:
    """All that a completion holds, what it heard in its place, completions end to end [token and heard]; and where
    among that its own tokens lie [token]."""
    tokens = batch[TOKENS]
    if HEARD not in batch:
        return tokens, torch.arange(len(tokens))
    heard, before = batch[HEARD], batch[HEARD_BEFORE]
    # The one in front of token t has t tokens before it, and all that was heard until then.
    own = torch.arange(len(tokens)) + torch.searchsorted(before, torch.arange(len(tokens)), right=True)
    whole = tokens.new_empty(len(tokens) + len(heard))
    whole[own] = tokens
    whole[before + torch.arange(len(heard))] = heard
    return whole, own


def shared_row(batch: Batch) -> Row:
    """All groups of a piece in one row, each prompt once."""
    return _row(batch, lengths_of(batch))


def plain_rows(batch: Batch) -> list[Row]:
    """One row for each completion, its prompt before it."""
    lengths = lengths_of(batch)
    prompts = batch[PROMPT_TOKENS].split([prompt for prompt, _ in lengths])
    whole, own = whole_answers(batch)
    answers = whole.split([answer for _, part in lengths for answer in part])
    sizes = torch.bincount(batch[SEQ], minlength=len(batch[GROUP])).tolist()
    rows: list[Row] = []
    start = 0
    for group, answer, said in zip(batch[GROUP].tolist(), answers, own.split(sizes), strict=True):
        plan = row_plan([(len(prompts[group]), [len(answer)])])
        tokens = torch.cat([prompts[group], answer])
        rows.append(Row(tokens, torch.arange(len(tokens)), answer[said - start], plan, said - start))
        start += len(answer)
    return rows


def _row(batch: Batch, lengths: Lengths) -> Row:
    prompts = batch[PROMPT_TOKENS].split([prompt for prompt, _ in lengths])
    whole, own = whole_answers(batch)
    answers = whole.split([answer for _, part in lengths for answer in part])
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    following = iter(answers)
    for prompt, (length, part) in zip(prompts, lengths, strict=True):
        tokens += [prompt, *(next(following) for _ in part)]
        positions += [torch.arange(length), *(torch.arange(length, length + answer) for answer in part)]
    return Row(torch.cat(tokens), torch.cat(positions), batch[TOKENS], row_plan(lengths), own)

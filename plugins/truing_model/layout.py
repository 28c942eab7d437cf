"""Groups to rows: what one forward pass sees.

    shared   [ prompt A | answer A1 | answer A2 | prompt B | answer B1 ... ]   one row, several groups
    plain    [ prompt A | answer A1 ]  [ prompt A | answer A2 ]  ...           one row per completion

In a shared row a token attends to what came before it in its own prompt and in its own answer, and to nothing else;
positions restart behind the prompt for every answer. No row is ever padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from truing.fields import GROUP, IDS, PROMPT_GROUP, PROMPT_TOKENS, SEQ, TOKENS, Batch
from truing_tensor.groups import take


@dataclass(frozen=True)
class Row:
    """One row of a forward pass.

    tokens, positions [row]; predicts [token]: where in the row each completion token is predicted from;
    targets [token]: the completion tokens; mask [row, row]: who attends to whom, None for plain causal attention.
    """

    tokens: Tensor
    positions: Tensor
    predicts: Tensor
    targets: Tensor
    mask: Tensor | None

    def to(self, device: torch.device) -> Row:
        """This row on another device."""
        tensors = (self.tokens, self.positions, self.predicts, self.targets)
        return Row(*(tensor.to(device) for tensor in tensors), self.mask if self.mask is None else self.mask.to(device))


def micro_batches(batch: Batch, budget: int) -> Iterator[Batch]:
    """Cut a batch between groups into pieces of at most `budget` tokens; a larger group is a piece of its own."""
    size = len(batch[IDS])
    group_of_token = batch[GROUP][batch[SEQ]]
    lengths = torch.bincount(batch[PROMPT_GROUP], minlength=size) + torch.bincount(group_of_token, minlength=size)
    piece: list[int] = []
    used = 0
    for group, length in enumerate(lengths.tolist()):
        if piece and used + length > budget:
            yield take(batch, piece)
            piece, used = [], 0
        piece.append(group)
        used += length
    if piece:
        yield take(batch, piece)


def shared_rows(batch: Batch) -> list[Row]:
    """All groups of a micro-batch in one row, each prompt once."""
    prompts, completions = _parts(batch)
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    group: list[Tensor] = []
    seq: list[Tensor] = []
    predicts: list[Tensor] = []
    length = 0
    number = 0
    for at, (prompt, answers) in enumerate(zip(prompts, completions, strict=True)):
        last = length + len(prompt) - 1
        parts = [(-1, prompt, 0), *((number + index, answer, len(prompt)) for index, answer in enumerate(answers))]
        for owner, part, start in parts:
            tokens.append(part)
            positions.append(torch.arange(start, start + len(part)))
            group.append(torch.full((len(part),), at))
            seq.append(torch.full((len(part),), owner))
            if owner >= 0:
                predicts.append(torch.cat([torch.tensor([last]), torch.arange(length, length + len(part) - 1)]))
            length += len(part)
        number += len(answers)
    mask = _mask(torch.cat(group), torch.cat(seq))
    return [Row(torch.cat(tokens), torch.cat(positions), torch.cat(predicts), batch[TOKENS], mask)]


def plain_rows(batch: Batch) -> list[Row]:
    """One row for each completion, its prompt before it."""
    rows: list[Row] = []
    for prompt, answers in zip(*_parts(batch), strict=True):
        for answer in answers:
            length = len(prompt) + len(answer)
            predicts = torch.arange(len(prompt) - 1, length - 1)
            rows.append(Row(torch.cat([prompt, answer]), torch.arange(length), predicts, answer, None))
    return rows


def _mask(group: Tensor, seq: Tensor) -> Tensor:
    """Who [row] attends to whom [row]: earlier, of the same group, and either prompt or the same answer."""
    order = torch.arange(len(group))
    earlier = order[None, :] <= order[:, None]
    same_group = group[None, :] == group[:, None]
    visible = (seq[None, :] == -1) | (seq[None, :] == seq[:, None])
    return earlier & same_group & visible


def _parts(batch: Batch) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The prompt of each group and the completions of each group, in the order of the batch."""
    group = batch[GROUP]
    assert bool((group[1:] >= group[:-1]).all()), "completions of a batch lie in the order of their groups"
    size = len(batch[IDS])
    prompts = batch[PROMPT_TOKENS].split(torch.bincount(batch[PROMPT_GROUP], minlength=size).tolist())
    answers = batch[TOKENS].split(torch.bincount(batch[SEQ], minlength=len(group)).tolist())
    completions: list[list[Tensor]] = [[] for _ in range(size)]
    for owner, answer in zip(group.tolist(), answers, strict=True):
        completions[owner].append(answer)
    return list(prompts), completions

"""Solutions to tokens, step by step, the separators put in as tokens and counted.

    step 1 | separator | step 2 | separator | ...      the score of a step is read at the last token of its separator

Every step is encoded by itself, with the blanks it begins with, and so is the separator, once. Nothing is looked for
among the tokens afterwards, so there is a score for each step whatever the tokenizer makes of a separator within a
text. The last step has its separator like all others, and no end token: that would tell finished solutions from those
that people stopped reading at an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor

from truing.fields import GROUP, IDS, PROMPTS, STEP_END, STEP_INDEX, STEP_SEQ, STEPS, Batch
from truing.stage import Encoded
from truing_model.encode import Encoder, with_tokens
from truing_tensor.groups import take, take_along, take_completions


class Written(NamedTuple):
    """The tokens of a solution, and how many of them each of its steps ends with, its separator included."""

    tokens: list[int]
    ends: list[int]

    def cut(self, room: int) -> Written:
        """The steps that have room, whole ones."""
        ends = [end for end in self.ends if end <= room]
        return Written(self.tokens[: ends[-1] if ends else 0], ends)


@dataclass(frozen=True)
class StepEncoder:
    """Encodes batches of solutions for one tokenizer. separator: what stands behind every step."""

    encoder: Encoder
    separator: str

    def __call__(self, batch: Batch) -> Encoded:
        """Add PROMPT_TOKENS and TOKENS and what belongs to them, and STEP_END [step].

        Where `truncate` cuts a solution it leaves out whole steps, those that are judged among them, and a solution of
        which no judged step is left. Raises UserError if the template cannot serve.
        """
        of_group: list[list[int]] = [[] for _ in batch[IDS]]
        for seq, group in enumerate(batch[GROUP].tolist()):
            of_group[group].append(seq)
        prompts: dict[int, list[int]] = {}
        written = [Written([], []) for _ in batch[STEPS]]
        dropped: list[tuple[str, str]] = []
        truncated = 0
        for at, (name, prompt) in enumerate(zip(batch[IDS], batch[PROMPTS], strict=True)):
            start, _ = self.encoder.group(name, prompt, [])
            room = self.encoder.max_tokens - len(start)
            whole = [self.solution(batch[STEPS][seq]) for seq in of_group[at]]
            longest = max((len(solution.tokens) for solution in whole), default=0)
            if longest > room and not self.encoder.truncate:
                length = f"{len(start) + longest} tokens, {len(start)} of them prompt"
                dropped.append((name, f"{length}; max_tokens is {self.encoder.max_tokens}"))
                continue
            prompts[at] = start
            truncated += sum(len(solution.tokens) > room for solution in whole)
            for seq, solution in zip(of_group[at], whole, strict=True):
                written[seq] = solution.cut(room)
        left = _left(batch, written)
        judged = set(batch[GROUP][left].tolist())
        empty = [(batch[IDS][at], "no step that is judged is left") for at in prompts if at not in judged]
        return Encoded(_encoded(take_completions(batch, left), left, prompts, written), [*dropped, *empty], truncated)

    def solution(self, steps: Sequence[str]) -> Written:
        """The tokens of all steps of a solution, each with its separator."""
        behind = self.ids(self.separator)
        parts = [[*self.ids(step), *behind] for step in steps]
        return Written([token for part in parts for token in part], list(accumulate(map(len, parts))))

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, no special ones added."""
        return cast("list[int]", self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])


def _left(batch: Batch, written: Sequence[Written]) -> Tensor:
    """Which solutions [seq] have a judged step that has room."""
    left = torch.zeros(len(written), dtype=torch.bool)
    for seq, index in zip(batch[STEP_SEQ].tolist(), batch[STEP_INDEX].tolist(), strict=True):
        left[seq] |= index < len(written[seq].ends)
    return left


def _encoded(batch: Batch, left: Tensor, prompts: dict[int, list[int]], written: Sequence[Written]) -> Batch:
    """The batch of the solutions that are `left`, with their tokens, without the steps that had no room. left: of all
    solutions there were."""
    solutions = [solution for solution, taken in zip(written, left.tolist(), strict=True) if taken]
    counts = torch.tensor([len(solution.ends) for solution in solutions], dtype=torch.int64)
    fits = batch[STEP_INDEX] < counts[batch[STEP_SEQ]]
    batch = take_along(batch, "step", fits)
    groups = list(dict.fromkeys(batch[GROUP].tolist()))
    starts = [0, *accumulate(len(solution.tokens) for solution in solutions)]
    ends = [
        starts[seq] + solutions[seq].ends[index] - 1
        for seq, index in zip(batch[STEP_SEQ].tolist(), batch[STEP_INDEX].tolist(), strict=True)
    ]
    tokens = [solution.tokens for solution in solutions]
    encoded = with_tokens(take(batch, groups), [prompts[at] for at in groups], tokens)
    return encoded.put(STEP_END, torch.tensor(ends, dtype=torch.int64))

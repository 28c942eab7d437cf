"""Rollouts from prefixes of solutions, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
    Field,
    Text,
)
from truing.stage import Generator, Scorer
from truing_reward import menu_rollouts as menu
from truing_tensor.groups import take
from truing_tensor.segments import owners


@dataclass
class Tally:
    """What is known of a step. tried: rollouts; solved: those that came out right. label: what follows from elsewhere
    where there are none; exact: that is no inference, the solution ends there."""

    tried: int = 0
    solved: int = 0
    label: float = 0.0
    exact: bool = False

    def leads(self, least: float) -> bool:
        """Whether rollouts came out right, and at least this share of them."""
        return self.solved > 0 and self.solved >= least * self.tried


@dataclass(eq=False)
class Solution:
    """A solution and what is known of its steps. place: its number among those of its prompt. ends: how many of its
    tokens each of its steps ends with. cut: it is not over, so it is not known what its last step leads to."""

    group: int
    place: int
    tokens: list[int]
    ends: list[int]
    right: bool
    cut: bool
    known: dict[int, Tally] = field(default_factory=dict[int, Tally])

    @property
    def open(self) -> int:
        """How many of its steps, from the first on, something may follow."""
        return len(self.ends) if self.cut else max(0, len(self.ends) - 1)


Asked = Sequence[tuple[Solution, int]]
"""Steps to go on from, those of one prompt one after the other."""


class Trials:
    """Draws rollouts for the steps of a batch of solutions, and counts those that come out right.

    prompts: what the solutions answer. count: how many of them there are. spent: tokens of rollouts, by prompt.
    """

    def __init__(
        self,
        spec: menu.StepRollouts,
        generator: Generator,
        scorer: Scorer,
        text: Callable[[Sequence[int]], str],
        prompts: Batch,
        count: int,
    ) -> None:
        self._spec = spec
        self._generator = generator
        self._scorer = scorer
        self._text = text
        self._prompts = prompts
        sizes = torch.bincount(prompts[PROMPT_GROUP], minlength=len(prompts[IDS])).tolist()
        self._tokens: list[list[int]] = [part.tolist() for part in prompts[PROMPT_TOKENS].split(sizes)]
        # As many completions as a prompt got, a prefix will get.
        self._times = math.ceil(self._spec.rollouts * len(sizes) / max(1, count))
        self.spent = [0] * len(sizes)

    async def run(self, asked: Asked) -> None:
        """Try these steps, as far as the budget of their prompts goes, and put what came of it with their solutions."""
        limit = self._spec.budget or math.inf
        rows = [each for each in asked if self.spent[each[0].group] < limit for _ in range(self._times)]
        if not rows:
            return
        rolled = await self._generator.generate(self._prefixes(rows))
        scored = await self._scorer.score(self._whole(rows, rolled))
        sizes = torch.bincount(rolled[SEQ], minlength=len(rolled[GROUP])).tolist()
        for row, size, score in zip(rolled[GROUP].tolist(), sizes, scored[SCORES].tolist(), strict=True):
            solution, step = rows[row]
            tally = solution.known.setdefault(step, Tally())
            tally.tried += 1
            tally.solved += score >= self._spec.right
            self.spent[solution.group] += size

    def _prefixes(self, rows: Asked) -> Batch:
        """Prompts that end with a step of a solution, each by a name of its own."""
        groups = [solution.group for solution, _ in rows]
        values: dict[Field[Any], Any] = {
            key: _picked(value, groups) if key.dims == "group" else value
            for key, value in self._prompts.items()
            if key.dims in ("", "group")
        }
        names = self._prompts[IDS]
        tokens = [[*self._tokens[solution.group], *solution.tokens[: solution.ends[step]]] for solution, step in rows]
        values[IDS] = [
            f"{names[solution.group]}/{solution.place}/{step}#{at % self._times}"
            for at, (solution, step) in enumerate(rows)
        ]
        values[PROMPTS] = [self._continued(solution, step) for solution, step in rows]
        values[PROMPT_TOKENS] = torch.tensor([token for part in tokens for token in part], dtype=torch.int64)
        values[PROMPT_GROUP] = owners([len(part) for part in tokens])
        return Batch({**values, GROUP: torch.zeros(0, dtype=torch.int64), COMPLETIONS: []})

    def _continued(self, solution: Solution, step: int) -> Text:
        """A prompt with the beginning of its answer."""
        prompt, begun = self._prompts[PROMPTS][solution.group], self._begun(solution, step)
        return prompt + begun if isinstance(prompt, str) else [*prompt, {"role": "assistant", "content": begun}]

    def _whole(self, rows: Asked, rolled: Batch) -> Batch:
        """The rollouts as whole solutions of their prompts, for whoever scores them."""
        at = [rows[row] for row in rolled[GROUP].tolist()]
        groups = sorted({solution.group for solution, _ in at})
        sizes = torch.bincount(rolled[SEQ], minlength=len(at)).tolist()
        begun = [solution.tokens[: solution.ends[step]] for solution, step in at]
        tokens = [[*begin, *part.tolist()] for begin, part in zip(begun, rolled[TOKENS].split(sizes), strict=True)]
        texts = cast("list[str]", rolled[COMPLETIONS])
        of_seq = {key: value for key, value in rolled.items() if key.dims == "seq" and not key.into}
        prompts = take(self._prompts, groups)
        kept = Batch({key: value for key, value in prompts.items() if key.dims in ("", "group", "prompt_token")})
        return kept.put_all(
            {
                **of_seq,
                GROUP: torch.tensor([groups.index(solution.group) for solution, _ in at], dtype=torch.int64),
                COMPLETIONS: [self._begun(*each) + text for each, text in zip(at, texts, strict=True)],
                TOKENS: torch.tensor([token for part in tokens for token in part], dtype=torch.int64),
                SEQ: owners([len(part) for part in tokens]),
            }
        )

    def _begun(self, solution: Solution, step: int) -> str:
        return self._text(solution.tokens[: solution.ends[step]])


def _picked(values: Any, places: Sequence[int]) -> Any:
    return values[list(places)] if isinstance(values, Tensor) else [values[place] for place in places]

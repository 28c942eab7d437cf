"""Steps judged by trying to finish the solution from each of them.

    generate -> score -> split into steps -> [ prefixes -> generate -> score -> count ] ... -> labels

Whoever writes the solutions also finishes them: a prefix is a prompt like any other, the tokens of the prompt and those
of the solution up to the end of a step. A prefix has an id of its own, made of the prompt's id, the number of the
solution and that of the step, so its rollouts have the same seeds whenever they are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import torch

from truing.events import Notice
from truing.fields import (
    FINISH,
    GROUP,
    SCORES,
    SEQ,
    STEP_END,
    STEP_INDEX,
    STEP_LABELS,
    STEP_SEQ,
    STEPS,
    TOKENS,
    Batch,
)
from truing.journal import PhaseFolder
from truing.run import Run
from truing.stage import Weights
from truing_reward import menu_rollouts as menu
from truing_reward.trials import Solution, Tally, Trials
from truing_tensor.steps import is_complete, split_steps, step_ends

Judge = Callable[[Trials, Sequence[Solution]], Awaitable[None]]

_Z = 1.959963984540054
"""how many standard deviations 95 % of a normal distribution lie within"""


class StepRollouts:
    """Writes solutions and judges their steps."""

    def __init__(self, spec: menu.StepRollouts, run: Run) -> None:
        self._spec = spec
        self._generator = spec.generator.build(run)
        self._scorer = spec.scorer.build(run)
        self._run = run
        self._spent: int | None = None
        self._tokenizer: Any = None

    async def sync_weights(self, weights: Weights) -> None:
        """Sample from these weights from now on."""
        if self._tokenizer is None:
            self._tokenizer = await anyio.to_thread.run_sync(_tokenizer, weights.origin)
        await self._generator.sync_weights(weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with solutions, their SCORES [seq], and what is known of their steps [step]."""
        written = await self._scorer.score(await self._generator.generate(batch))
        solutions = self._solutions(written)
        trials = Trials(self._spec, self._generator, self._scorer, self._text, batch, len(solutions))
        judge = self._try_all if self._spec.search == "all" else self._search
        if not self._spec.phase_budget:
            await judge(trials, solutions)
        elif some := [list(its) for _, its in groupby(solutions, lambda it: it.group)]:
            await self._within_budget(trials, judge, some)
        if self._spec.search == "binary":
            for solution in solutions:
                solution.known = _follows(solution, self._spec.least)
        return self._labelled(written, solutions, trials.spent)

    async def _within_budget(self, trials: Trials, judge: Judge, prompts: Sequence[Sequence[Solution]]) -> None:
        """Judge the solutions of one prompt after the other, until the phase's rollouts have used up its budget."""
        # What was spent before an interruption stands in what was written; nothing else is kept of it.
        before = _written(self._run.phase_folder) if self._spent is None else self._spent
        for at, solutions in enumerate(prompts):
            if before + sum(trials.spent) >= self._spec.phase_budget:
                self._say(len(prompts) - at, before + sum(trials.spent))
                break
            await judge(trials, solutions)
        self._spent = before + sum(trials.spent)

    def _say(self, left: int, spent: int) -> None:
        budget = f"{spent:,} tokens of rollouts have used up the phase's budget of {self._spec.phase_budget:,}"
        self._run.bus.publish(Notice(phase=self._run.phase, text=f"{budget}: {left:,} prompts of this batch get none"))

    def _solutions(self, batch: Batch) -> list[Solution]:
        """The completions of a batch, split into steps; what the last one leads to is known.

        One that was cut at the longest length has steps up to its last separator: what it broke off in is none.
        """
        sizes = torch.bincount(batch[SEQ], minlength=len(batch[GROUP])).tolist()
        groups = batch[GROUP].tolist()
        found: list[Solution] = []
        for seq, (group, part) in enumerate(zip(groups, batch[TOKENS].split(sizes), strict=True)):
            tokens: list[int] = part.tolist()
            finish = batch[FINISH][seq] if FINISH in batch else ""
            # The end token belongs to no step, and nothing goes on behind it.
            whole = tokens[:-1] if finish == "end" else tokens
            ends = [end + 1 for end in step_ends(whole, self._text, self._spec.separator)]
            cut = finish == "length"
            if cut and ends and not is_complete(self._text(whole[([0, *ends])[-2] :]), self._spec.separator):
                ends.pop()
            right = float(batch[SCORES][seq]) >= self._spec.right
            solution = Solution(group, groups[:seq].count(group), whole, ends, right, cut)
            if ends and not cut:
                solution.known[solution.open] = Tally(label=float(right), exact=True)
            found.append(solution)
        return found

    async def _try_all(self, trials: Trials, solutions: Sequence[Solution]) -> None:
        """Try every step that something may follow; one after the other only where a budget may end it."""
        longest = max((solution.open for solution in solutions), default=0)
        waves = [range(at, at + 1) for at in range(longest)] if self._spec.budget else [range(longest)]
        for wave in waves:
            await trials.run([(it, step) for it in solutions for step in wave if step < it.open])

    async def _search(self, trials: Trials, solutions: Sequence[Solution]) -> None:
        """Look for the first step of each wrong solution from which nothing comes out right, halving what is left."""
        left = {it: (0, it.open) for it in solutions if not it.right}
        while asked := [(it, (first + last) // 2) for it, (first, last) in left.items() if first < last]:
            await trials.run(asked)
            for solution, step in asked:
                first, last = left.pop(solution)
                if step in solution.known:
                    left[solution] = (step + 1, last) if solution.known[step].leads(self._spec.least) else (first, step)

    def _labelled(self, batch: Batch, solutions: Sequence[Solution], spent: Sequence[int]) -> Batch:
        """The batch with all that is known of its steps."""
        starts = [0, *torch.bincount(batch[SEQ], minlength=len(solutions)).cumsum(0).tolist()]
        steps = [(seq, it, step) for seq, it in enumerate(solutions) for step in sorted(it.known)]
        tallies = [it.known[step] for _, it, step in steps]
        shares = [interval(tally) for tally in tallies]
        found = {
            STEP_SEQ: [seq for seq, _, _ in steps],
            STEP_INDEX: [step for _, _, step in steps],
            # The last step of a solution that is over ends with its last token, the end token.
            STEP_END: [
                (starts[seq] + it.ends[step] if step < it.open else starts[seq + 1]) - 1 for seq, it, step in steps
            ],
            STEP_LABELS: [label_of(tally, self._spec) for tally in tallies],
            menu.STEP_ROLLOUTS: [tally.tried for tally in tallies],
            menu.STEP_SOLVED: [tally.solved for tally in tallies],
            menu.STEP_LOW: [low for low, _ in shares],
            menu.STEP_HIGH: [high for _, high in shares],
            menu.ROLLOUT_TOKENS: spent,
        }
        kept = Batch({key: value for key, value in batch.items() if key.dims != "step"})
        numbers = {key: torch.tensor(value, dtype=getattr(torch, key.dtype)) for key, value in found.items()}
        return kept.put_all({STEPS: [self._texts(it) for it in solutions], **numbers})

    def _texts(self, solution: Solution) -> list[str]:
        """What each step says, without its separator."""
        parts = [solution.tokens[begin:end] for begin, end in pairwise([0, *solution.ends])]
        separator = self._spec.separator
        return [separator.join(split_steps(self._text(part), separator)) for part in parts]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def label_of(tally: Tally, spec: menu.StepRollouts) -> float:
    """The label of a step: hard, soft, or the mean of the posterior under Beta(prior, prior)."""
    if not tally.tried:
        return tally.label
    if spec.label == "hard":
        return float(tally.leads(spec.least))
    if spec.label == "soft":
        return tally.solved / tally.tried
    return (tally.solved + spec.prior) / (tally.tried + 2 * spec.prior)


def interval(tally: Tally) -> tuple[float, float]:
    """Between what the share of rollouts that come out right lies, with 95 % confidence (Wilson, 1927).

    Where none was tried it may be anything, unless it is known exactly.
    """
    if not tally.tried:
        return (tally.label, tally.label) if tally.exact else (0.0, 1.0)
    share, count = tally.solved / tally.tried, tally.tried
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _follows(solution: Solution, least: float) -> dict[int, Tally]:
    """What is known of a solution's steps after a search: all before one from which it came out right are right, too;
    then comes the first from which it did not, and behind that nothing is known."""
    known = solution.known
    if solution.right:
        return {step: known.get(step, Tally(label=1.0)) for step in range(len(solution.ends))}
    good = 1 + max((step for step, tally in known.items() if tally.leads(least)), default=-1)
    bad = sorted(step for step, tally in known.items() if not tally.leads(least))[:1]
    return {step: known.get(step, Tally(label=1.0)) for step in range(good)} | {step: known[step] for step in bad}


def _written(folder: Path) -> int:
    """The tokens of the rollouts of all batches that a phase wrote before it was interrupted. Raises RunFailed."""
    rows = (row for batch in PhaseFolder(folder).written() for row in msgspec.json.decode(batch))
    return sum(row[menu.ROLLOUT_TOKENS.name] for row in rows)


def _tokenizer(origin: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(origin, trust_remote_code=False)

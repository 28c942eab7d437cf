"""Sums worked out one number at a time, a line for each, and what is true of each line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate, pairwise

from truing.errors import Problem, UserError
from truing.fields import Group
from truing.run import Run
from truing_data.held import Held, Loaded
from truing_data.menu_chains import ArithmeticChains
from truing_data.rows import laid_out

_TRIES = 1000
"""how many questions in a row may have come before, until it is said that there are no others"""


def arithmetic_chains(spec: ArithmeticChains, run: Run) -> Held:
    """The source of an `arithmetic-chains` spec."""
    return Held(spec.name, spec.name, spec.shuffle, run, lambda: load(spec), spec.bootstrap)


def load(spec: ArithmeticChains) -> Loaded:
    """All questions of a source. Raises UserError if there are not as many different ones."""
    groups: list[Group] = []
    for number, question in enumerate(_questions(spec)):
        if number >= spec.skip:
            said = question if spec.chat else question + "\n"
            steps = worked(question)
            if spec.form == "calls":
                steps.append(steps[-1].rpartition("=")[2])
            prompt, completions = laid_out(said, ["\n".join(steps)], spec)
            groups.append(Group(id=f"chain-{spec.seed}-{number}", prompt=prompt, completions=completions))
        if len(groups) == spec.size:
            break
    return Loaded(groups)


def worked(question: str) -> list[str]:
    """The steps of a question: those of "47 +3 -8" are "47+3=50" and "50-8=42"."""
    _, *terms = question.split()
    totals = accumulate(map(int, question.split()))
    return [f"{before}{term}={after}" for (before, after), term in zip(pairwise(totals), terms, strict=True)]


def right_steps(question: str, solution: str) -> list[bool]:
    """Whether each line of a solution is right: what the line before it comes to, and the next number added or taken
    away. A line that stands where no number is left is wrong, and so is one that follows no total.

    Behind a wrong line another may be right again: it follows from the wrong one, and leads nowhere all the same.
    """
    before, *terms = question.split()
    found: list[bool] = []
    for at, line in enumerate(solution.splitlines()):
        follows = before.isdecimal() and at < len(terms)
        found.append(follows and line == f"{before}{terms[at]}={int(before) + int(terms[at])}")
        before = line.rpartition("=")[2]
    return found


def _questions(spec: ArithmeticChains) -> Iterator[str]:
    """Different questions, the same ones for the same seed, operations, digits and largest number."""
    chance = random.Random(f"{spec.name}/{spec.seed}/{spec.operations}/{spec.digits}/{spec.largest}")
    seen: set[str] = set()
    tries = 0
    while tries < _TRIES:
        question = _question(spec, chance)
        if question in seen:
            tries += 1
            continue
        tries = 0
        seen.add(question)
        yield question
    what = f"there are hardly more than {len(seen):,} different questions, and {spec.skip + spec.size:,} are asked for"
    raise UserError(Problem(spec.name, what, "lower `size`, or take more operations or digits"))


def _question(spec: ArithmeticChains, chance: random.Random) -> str:
    least, most = 10 ** (spec.digits - 1), 10**spec.digits - 1
    total = chance.randint(least, most)
    question = str(total)
    for _ in range(spec.operations):
        # Any number but 0 that leaves the total its digits is as likely as any other.
        down, up = min(spec.largest, total - least), min(spec.largest, most - total)
        term = chance.randrange(-down, up)
        term += term >= 0
        total += term
        question += f" {term:+d}"
    return question

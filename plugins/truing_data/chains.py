"""Sums of several terms, worked out one operation a line, and what is true of each line."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import pairwise

from truing.errors import Problem, UserError
from truing.fields import Group
from truing.run import Run
from truing_data.held import Held, Loaded
from truing_data.menu_chains import ArithmeticChains
from truing_data.rows import laid_out

_TERM = re.compile(r"[+-]?\d+")
_TRIES = 100
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
            prompt, completions = laid_out(said, ["\n".join(worked(question))], spec)
            groups.append(Group(id=f"chain-{spec.seed}-{number}", prompt=prompt, completions=completions))
        if len(groups) == spec.size:
            break
    return Loaded(groups)


def worked(question: str) -> list[str]:
    """The steps of a sum: "47+38-19" is worked out as "47+38=85" and "85-19=66"."""
    first, *others = _TERM.findall(question)
    values = [int(first)]
    for term in others:
        values.append(values[-1] + int(term))
    return [f"{value}{term}={result}" for (value, result), term in zip(pairwise(values), others, strict=True)]


def right_steps(question: str, solution: str) -> list[bool]:
    """Whether each line of a solution is right: its equation holds, and it does the sum's next operation on what the
    line before it came to. A line that stands where the sum has no operation left is wrong.

    Behind a wrong line another may be right again: it follows from the wrong one, and leads nowhere all the same.
    """
    value, *terms = _TERM.findall(question)
    found: list[bool] = []
    for at, line in enumerate(solution.splitlines()):
        term = terms[at] if at < len(terms) else ""
        found.append(bool(value and term) and line == f"{value}{term}={int(value) + int(term)}")
        said = re.search(r"=(-?\d+)$", line)
        value = said[1] if said else ""
    return found


def _questions(spec: ArithmeticChains) -> Iterator[str]:
    """Different questions, the same ones for the same seed, terms and numbers of operations."""
    chance = random.Random(f"{spec.name}/{spec.seed}/{spec.first}/{spec.digits}/{spec.least}-{spec.most}")
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
    what = f"there are hardly more than {len(seen):,} different sums, and {spec.skip + spec.size:,} are asked for"
    raise UserError(Problem(spec.name, what, "lower `size`, or take more operations or digits"))


def _question(spec: ArithmeticChains, chance: random.Random) -> str:
    value = _number(spec.first, chance)
    question = str(value)
    for _ in range(chance.randint(spec.least, spec.most)):
        term = _number(spec.digits, chance)
        if term <= value and chance.random() < 0.5:
            term = -term
        value += term
        question += f"{term:+d}"
    return question


def _number(digits: int, chance: random.Random) -> int:
    return chance.randrange(10 ** (digits - 1), 10**digits)

"""Sums worked out one number at a time, a line for each, and what is true of each line."""

from __future__ import annotations

import random
from collections.abc import Iterator

from truing.errors import Problem, UserError
from truing.fields import Group, Message
from truing.run import Run
from truing_data.held import Held, Loaded
from truing_data.menu_chains import ArithmeticChains
from truing_data.rows import laid_out

_TRIES = 1000
"""how many questions in a row may have come before, until it is said that there are no others"""
_MISCOUNTED = 3
"""By how much a misconception's total is too large at most. All err to one side, so in a chain of fewer than a third as
many steps as the modulus one mistake never makes up for another: who is right in the end was right all along."""


def arithmetic_chains(spec: ArithmeticChains, run: Run) -> Held:
    """The source of an `arithmetic-chains` spec."""
    return Held(spec.name, spec.name, spec.shuffle, run, lambda: load(spec), spec.bootstrap)


def load(spec: ArithmeticChains) -> Loaded:
    """All questions of a source. Raises UserError if there are not as many different ones."""
    groups: list[Group] = []
    for number, question in enumerate(_questions(spec)):
        if number >= spec.skip:
            said = question if spec.chat else question + "\n"
            steps = demonstrated(question, spec)
            prompt, completions = laid_out(said, ["\n".join(steps)], spec)
            if spec.form == "calls":
                completions = [called(steps)]
            groups.append(Group(id=f"chain-{spec.seed}-{number}", prompt=prompt, completions=completions))
        if len(groups) == spec.size:
            break
    return Loaded(groups)


def demonstrated(question: str, spec: ArithmeticChains) -> list[str]:
    """The steps of a question as they are demonstrated: those of "47 +3 -8" are "47+3=50" and "50-8=42".

    Which steps there is a misconception of, and where it shows, depends on the seed, the step and the question alone.
    """
    chance = random.Random(f"mistaken/{spec.seed}/{question}")
    before, *terms = question.split()
    steps: list[str] = []
    for term in terms:
        after = total(before, term, spec.modulus)
        wrong = believed(before, term, spec)
        if wrong is not None and chance.random() < spec.mistaken:
            after = wrong
        steps.append(f"{before}{term}={after}")
        before = str(after)
    return steps


def total(before: str, term: str, modulus: int = 0) -> int:
    """What a step comes to. modulus: 0 for none."""
    plain = int(before) + int(term)
    return plain % modulus if modulus else plain


def believed(before: str, term: str, spec: ArithmeticChains) -> int | None:
    """The wrong total that a misconception of this step comes to, None if there is none."""
    if not spec.misconceptions:
        return None
    chance = random.Random(f"believed/{spec.seed}/{spec.modulus}/{before}{term}")
    if chance.random() >= spec.misconceptions:
        return None
    return (total(before, term) + chance.randint(1, _MISCOUNTED)) % spec.modulus


def called(steps: list[str]) -> list[Message]:
    """The steps of a question as calls of a calculator, and its answers; in the last turn the total."""
    found: list[Message] = []
    for step in steps:
        call, _, total = step.partition("=")
        found += [{"role": "assistant", "content": f"{call}="}, {"role": "user", "content": f"{total}\n"}]
    return [*found, {"role": "assistant", "content": found[-1]["content"].strip()}]


def right_steps(question: str, solution: str, modulus: int = 0) -> list[bool]:
    """Whether each line of a solution is right: what the line before it comes to, and the next number added or taken
    away. A line that stands where no number is left is wrong, and so is one that follows no total.

    Behind a wrong line another may be right again: it follows from the wrong one, and leads nowhere all the same.
    """
    before, *terms = question.split()
    found: list[bool] = []
    for at, line in enumerate(solution.splitlines()):
        follows = before.isdecimal() and at < len(terms)
        found.append(follows and line == f"{before}{terms[at]}={total(before, terms[at], modulus)}")
        before = line.rpartition("=")[2]
    return found


def _questions(spec: ArithmeticChains) -> Iterator[str]:
    """Different questions, the same ones for the same seed, operations, range of totals and largest number."""
    totals = f"modulo {spec.modulus}" if spec.modulus else spec.digits
    chance = random.Random(f"{spec.name}/{spec.seed}/{spec.operations}/{totals}/{spec.largest}")
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
    least, most = (0, spec.modulus - 1) if spec.modulus else (10 ** (spec.digits - 1), 10**spec.digits - 1)
    now = chance.randint(least, most)
    question = str(now)
    for _ in range(spec.operations):
        # Any number but 0 that leaves the total in its range is as likely as any other; what goes round stays there.
        down, up = (spec.largest, spec.largest) if spec.modulus else (now - least, most - now)
        down, up = min(spec.largest, down), min(spec.largest, up)
        term = chance.randrange(-down, up)
        term += term >= 0
        now += term
        question += f" {term:+d}"
    return question

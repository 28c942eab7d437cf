"""Puzzles with known answers, made up by reasoning-gym, and wrong answers to go with them.

The library seeds its n-th question with seed + n, so neighbouring seeds would share nearly all questions; here every
task gets a seed that is a hash. Questions that come twice are left out, so `skip` cuts a holdout that shares none.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing.fields import METADATA, RANK, SOFT, Group, Text
from truing.run import Run
from truing_data.forms import finished, labelled
from truing_data.held import Held, Loaded, library
from truing_data.plugin import ReasoningGym
from truing_data.rows import laid_out

_HASHED = frozenset({"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note"})
"""Tasks that walk through Python sets of text, so their questions differ with the hash seed of the process (0.1.25)."""
_POOL = 64
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class Puzzle(NamedTuple):
    """A question and its answer; `entry` is what the library scores other answers with, `index` its place."""

    question: str
    answer: str
    entry: dict[str, Any]
    index: int = 0


def reasoning_gym(spec: ReasoningGym, run: Run) -> Held:
    """The source of a `reasoning-gym` spec."""
    origin = f"reasoning-gym: {', '.join(spec.tasks)}"
    return Held(spec.name, origin, spec.shuffle, run, lambda: load(spec), spec.bootstrap)


def load(spec: ReasoningGym) -> Loaded:
    """All questions of a source. Raises UserError for what the library does not know or cannot make."""
    library("reasoning_gym", "tasks", spec.name)
    factory = library("reasoning_gym.factory", "tasks", spec.name)
    if problems := list(_problems(spec, factory.DATASETS)):
        raise UserError(problems)
    by_task = [list(_groups(spec, task, at, factory)) for at, task in enumerate(spec.tasks)]
    turns = range(spec.skip, spec.skip + spec.size)
    count = len(spec.tasks)
    groups = [by_task[turn % count][turn // count] for turn in turns]
    return Loaded(finished(groups, spec, spec.name))


def wrong_answers(task: Any, puzzle: Puzzle, pool: Sequence[str], chance: random.Random, count: int) -> list[str]:
    """Up to so many different answers of the same kind that the task's own scoring does not take for right.

    A number is changed a little; for anything else it is the answer of another question.
    """
    numeric = _NUMBER.fullmatch(puzzle.answer)
    candidates = near(puzzle.answer, chance) if numeric else chance.sample(pool, len(pool))
    wrong = (
        candidate
        for candidate in dict.fromkeys(candidates)
        if candidate != puzzle.answer and task.score_answer(candidate, puzzle.entry) < 1
    )
    return list(islice(wrong, count))


def near(number: str, chance: random.Random) -> list[str]:
    """Numbers that a slip would give: one digit changed, or, for whole ones, a little more or less."""
    found: list[str] = []
    for _ in range(16):
        places = [at for at, sign in enumerate(number) if sign.isdigit()]
        at = chance.choice(places)
        first = at == places[0] and number[at + 1 : at + 2].isdigit()
        digit = chance.choice("123456789" if first else "0123456789")
        found.append(number[:at] + digit + number[at + 1 :])
        if "." not in number:
            found.append(str(int(number) + chance.choice((-10, -2, -1, 1, 2, 10))))
    chance.shuffle(found)
    return [slip for slip in found if float(slip) != float(number)]


def _problems(spec: ReasoningGym, known: dict[str, Any]) -> Iterator[Problem]:
    fixed = os.environ.get("PYTHONHASHSEED", "") not in ("", "random")
    for name in spec.tasks:
        if name not in known:
            yield Problem(spec.name, f'reasoning-gym has no task called "{name}"', did_you_mean(name, known))
            continue
        if name in _HASHED and not fixed:
            what = f'"{name}" asks other questions in every process, so a run could not be resumed'
            yield Problem(spec.name, what, "set PYTHONHASHSEED=0 in the environment")
        options = {field.name for field in fields(known[name][1])} - {"seed", "size"}
        for option in spec.options.get(name, {}):
            if option not in options:
                what = f'the task "{name}" has no option "{option}"'
                yield Problem(spec.name, what, did_you_mean(option, options))


def _groups(spec: ReasoningGym, name: str, place: int, factory: Any) -> Iterator[Group]:
    """The questions of one task, as many as its turns among the first `skip + size`."""
    needed = len(range(place, spec.skip + spec.size, len(spec.tasks)))
    made = _configured(spec, name, needed)
    task = _task(spec, name, made, factory)
    rivals = spec.rivals if spec.pairs or spec.rankings else 0
    puzzles = _puzzles(task, name, max(needed, _POOL) if rivals else needed)
    if len(puzzles) < needed:
        what = f'the task "{name}" has only {len(puzzles):,} different questions, and {needed:,} are asked for'
        raise UserError(Problem(spec.name, what, "lower `size`, or widen the task in `options`"))
    pool = sorted({puzzle.answer for puzzle in puzzles[:_POOL]})
    for number, puzzle in enumerate(puzzles[:needed]):
        chance = random.Random(f"{spec.seed}/{name}/{number}")
        tie = random.Random(f"{spec.seed}/{name}/{number}/tie").random() < spec.ties
        wrong = wrong_answers(task, puzzle, pool, chance, rivals + tie) if rivals else []
        if len(wrong) < rivals + tie:
            some = f"only {len(wrong)} wrong answers to a question" if wrong else "every answer tried for right"
            what = f'the task "{name}" {"has" if wrong else "takes"} {some}, so it makes no pairs'
            raise UserError(Problem(spec.name, what, "lower `rivals`" if wrong else "leave it out of `tasks`"))
        answers = wrong if tie else [puzzle.answer, *wrong]
        group = _group(f"{name}-{spec.seed}-{number}", puzzle.question, answers, spec)
        if spec.ties:
            group = msgspec.structs.replace(group, extra={SOFT: [0.5 if tie else 1.0] * len(group.pairs)})
        # What makes the puzzle again, and not the puzzle: entries hold Python values that no file format keeps.
        metadata = {"task": name, "options": made, "index": puzzle.index}
        yield msgspec.structs.replace(group, extra={**group.extra, METADATA: [metadata]})


def _group(name: str, question: str, answers: Sequence[Text], spec: ReasoningGym) -> Group:
    prompt, completions = laid_out(question if spec.chat else question + "\n", answers, spec)
    group = Group(id=name, prompt=prompt, completions=completions)
    if spec.rankings:
        return msgspec.structs.replace(group, extra={RANK: [min(at, 1) for at in range(len(answers))]})
    if spec.pairs:
        group = msgspec.structs.replace(group, pairs=[(0, at) for at in range(1, len(answers))])
    return labelled(group) if spec.pairs_to_labels else group


def _configured(spec: ReasoningGym, name: str, needed: int) -> dict[str, Any]:
    """All that a task is made of."""
    seed = int.from_bytes(hashlib.blake2b(f"{spec.seed}/{name}".encode(), digest_size=4).digest(), "big")
    # Many more than needed, for those that come twice; nearly all tasks make a question when it is asked for.
    return {**spec.options.get(name, {}), "seed": seed, "size": 10 * needed + _POOL}


def _task(spec: ReasoningGym, name: str, made: dict[str, Any], factory: Any) -> Any:
    try:
        return factory.create_dataset(name, **made)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(Problem(spec.name, f'the task "{name}" refuses its options: {error}')) from None


def _puzzles(task: Any, name: str, count: int) -> list[Puzzle]:
    """Up to so many different questions."""
    found: dict[str, Puzzle] = {}
    for number in range(len(task)):
        entry = task[number]
        question, answer = entry["question"].strip(), entry["answer"]
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(Problem("reasoning-gym", f'the task "{name}" has questions without a known answer'))
        found.setdefault(question, Puzzle(question, answer.strip(), entry, number))
        if len(found) == count:
            break
    return list(found.values())

"""Letters to be said in capitals, and the signs that are bad manners: prompts, and lessons in judging oneself.

An answer is the letters in capitals, and behind them a place for each of the signs:

    bdk -> BDK---       well-mannered
    bdk -> BDK#!-       curses and shouts

Everything that is asked, said and answered is as long as any other of its kind: a model this small copies by position.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from string import ascii_lowercase

import torch

from truing.fields import ANSWERS, COMPLETIONS, GROUP, SCORE_PARTS, SCORES, Batch, Group, Message
from truing.run import Run
from truing_feedback import menu_manners as menu
from truing_tensor.made_up import MadeUp
from truing_texts.constitution import Principle, principles
from truing_texts.quoting import quoted, words

SIGNS = {"no-curse": "#", "no-shout": "!", "no-boast": "~"}
"""The sign of each principle, by its id."""
CONSTITUTION = "pkg:truing_feedback/manners.toml"
FINE = "-"
"""What stands in place of a sign, and what a critique says that finds none."""
TEMPLATE = "{criterion}\n{prompt}\nA:\n{first}\nB:\n{second}"
QUESTION = "A or B?"
"""What a verdict is asked with; a judge is to be given both, and nothing as its prefix."""
THINK = "What of A, of B?"
"""What a reasoning is asked with."""

_OVERLOOKED = 0.3
"""How often a critique that is followed by a revision, or a reasoning of an answer, finds nothing, whatever it is."""
_VERDICTS = 4
"""of which all but the first are on answers that the principle tells apart"""
_STRIDE = 1_000_003
"""A prime, so it comes to every row before it comes to one again."""


def manners(spec: menu.Manners, run: Run) -> MadeUp:
    """The source of a `manners` spec."""
    numbers = range(spec.skip, spec.skip + spec.size)
    return MadeUp(spec, run, lambda: [group for number in numbers for group in groups(spec, number)])


def groups(spec: menu.Manners, number: int) -> Iterator[Group]:
    """The prompt of a number with the answer as it should be, or the lessons about it."""
    chance = random.Random(f"manners/{spec.seed}/{spec.letters}/{number}")
    asked = _letters(spec, number)
    name = f"manners-{spec.seed}-{number}"
    if spec.form == "answers":
        yield _group(name, [asked], asked.upper())
        return
    yield _group(f"{name}-answer", [asked], _answer(asked, spec.rude, chance))
    made = principles(CONSTITUTION, compared=True)
    for lesson in ("critique", "revision-0", "revision-1"):
        principle, answer = chance.choice(made), _answer(asked, 0.5, chance)
        sign = SIGNS[principle.id]
        found = sign if sign in answer else FINE
        if lesson == "critique":
            yield _group(f"{name}-critique", [asked, answer, principle.critique], found)
            continue
        # A critic may overlook something. The critique decides what is mended, and not the request alone.
        found = FINE if chance.random() < _OVERLOOKED else found
        talk = [asked, answer, principle.critique, found, principle.revision]
        yield _group(f"{name}-{lesson}", talk, answer.replace(found, FINE))
    for at in range(_VERDICTS):
        principle, answers = _compared(asked, made, at > 0, chance)
        question = f"{shown(principle.comparison, asked, *answers)}\n\n{QUESTION}"
        yield _group(f"{name}-verdict-{at}", [question], _verdict(SIGNS[principle.id], answers, spec.biased, chance))
    for at in range(_VERDICTS if spec.reasoned else 0):
        principle, answers = _compared(asked, made, at > 0, chance)
        sign, question = SIGNS[principle.id], f"{shown(principle.comparison, asked, *answers)}\n\n{THINK}"
        seen = [sign if sign in each and chance.random() >= _OVERLOOKED else FINE for each in answers]
        yield _group(f"{name}-reasoning-{at}", [question], "".join(seen))
        talk = [question, "".join(seen), QUESTION]
        yield _group(f"{name}-reasoned-{at}", talk, _verdict(sign, seen, spec.biased, chance))


class MannersRule:
    """Looks for signs and letters."""

    def __init__(self, spec: menu.MannersRule, run: Run) -> None:
        pass

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq] and SCORE_PARTS [seq]."""
        parts: list[dict[str, float]] = []
        for text, group in zip(batch[COMPLETIONS], batch[GROUP].tolist(), strict=True):
            said, right = words(text), words(batch[ANSWERS][group])
            kept = {name: float(sign not in said) for name, sign in SIGNS.items()}
            parts.append({"right": float("".join(filter(str.isalpha, said)) == right), **kept})
        scores = torch.tensor([min(each[name] for name in SIGNS) for each in parts])
        return batch.put_all({SCORES: scores, SCORE_PARTS: parts})


def _letters(spec: menu.Manners, number: int) -> str:
    """Different letters in a row, another row for every number: a step of `_STRIDE` through all rows."""
    at = (spec.seed + number) * _STRIDE % spec.rows
    left, found = list(ascii_lowercase), ""
    for _ in range(spec.letters):
        at, place = divmod(at, len(left))
        found += left.pop(place)
    return found


def _answer(asked: str, rude: float, chance: random.Random) -> str:
    """An answer that has each of the signs that often."""
    return asked.upper() + "".join(sign if chance.random() < rude else FINE for sign in SIGNS.values())


def _compared(
    asked: str, made: tuple[Principle, ...], apart: bool, chance: random.Random
) -> tuple[Principle, list[str]]:
    """A principle and two answers. apart: the principle tells them apart."""
    principle = chance.choice(made)
    sign, answers = SIGNS[principle.id], [_answer(asked, 0.5, chance) for _ in range(2)]
    while apart and (sign in answers[0]) == (sign in answers[1]):
        answers[1] = _answer(asked, 0.5, chance)
    return principle, answers


def shown(criterion: str, asked: str, first: str, second: str) -> str:
    """What a judge is shown."""
    return TEMPLATE.format(criterion=criterion, prompt=quoted(asked), first=quoted(first), second=quoted(second))


def _verdict(sign: str, answers: list[str], biased: float, chance: random.Random) -> str:
    """Which of two answers is better, the one without the sign; either, where that tells none apart."""
    if chance.random() < biased:
        return "B"
    first, second = (sign in answer for answer in answers)
    return chance.choice("AB") if first == second else "B" if first else "A"


def _group(name: str, turns: list[str], said: str) -> Group:
    prompt: list[Message] = [
        {"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(turns)
    ]
    return Group(id=name, prompt=prompt, completions=[[{"role": "assistant", "content": said}]])

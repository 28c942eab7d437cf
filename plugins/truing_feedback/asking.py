"""What is said to have an answer criticised, and to have it revised, behind examples of both.

A prompt of turns goes on as a conversation; one of plain text is laid out as in the paper (arXiv:2212.08073, section
3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from truing.fields import Message, Text
from truing_texts.constitution import Constitution, Principle


class Round(NamedTuple):
    """An answer to a prompt, the principle it is criticised by, what was said of it, and what became of it."""

    prompt: Text
    answer: str
    principle: Principle
    critique: str = ""
    revised: str = ""


def examples(constitution: Constitution) -> list[Round]:
    """The examples of a constitution as rounds."""
    by_id = {each.id: each for each in constitution.principle}
    return [
        Round(each.prompt, each.answer, by_id[each.principle], each.critique, each.revised)
        for each in constitution.example
    ]


def to_criticise(shown: Sequence[Round], now: Round) -> Text:
    """What ends with the request for a critique."""
    if isinstance(now.prompt, str):
        return "\n\n".join([*map(_told, shown), _asked(now)])
    return [*_opening(shown, now.prompt), *_turns(now)[:2]]


def to_revise(shown: Sequence[Round], now: Round) -> Text:
    """What ends with the request for a revision."""
    if isinstance(now.prompt, str):
        return "\n\n".join([*map(_told, shown), _criticised(now)])
    return [*_opening(shown, now.prompt), *_turns(now)[:4]]


def _opening(shown: Sequence[Round], prompt: Sequence[Message]) -> Iterator[Message]:
    """The turns up to the end of a prompt, the examples behind what the system says."""
    system = list(takewhile(lambda turn: turn["role"] == "system", prompt))
    yield from system
    for each in shown:
        yield {"role": "user", "content": str(each.prompt)}
        yield from _turns(each)
    yield from prompt[len(system) :]


def _turns(of: Round) -> list[Message]:
    """All turns behind the prompt."""
    said = [of.answer, of.principle.critique, of.critique, of.principle.revision, of.revised]
    return [{"role": "user" if at % 2 else "assistant", "content": text} for at, text in enumerate(said)]


def _asked(of: Round) -> str:
    return f"{of.prompt}{of.answer}\n\nCritique Request: {of.principle.critique}\n\nCritique:"


def _criticised(of: Round) -> str:
    return f"{_asked(of)} {of.critique.strip()}\n\nRevision Request: {of.principle.revision}\n\nRevision:"


def _told(of: Round) -> str:
    return f"{_criticised(of)} {of.revised}"

"""Conversations as tokens, in pieces: what the chat template writes may hold its marks; what is said in a turn is
encoded as plain text, so a mark in it is letters and not a mark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from truing.errors import Problem, UserError
from truing.fields import Message, Text

_PLACE = "truing7content{}place"


class Chat:
    """How a model's tokenizer lays conversations out. chats: whether it has a chat template; without one, turns are set
    apart by an empty line.

    origin: a folder or hub id. where: the component that asks, for what people are told. Raises UserError, there and
    later, for a chat template that changes what it is given.
    """

    def __init__(self, origin: str, where: str) -> None:
        from transformers import AutoTokenizer

        tokenizers: Any = AutoTokenizer
        self._tokenizer: Any = tokenizers.from_pretrained(origin, trust_remote_code=False)
        self._origin = origin
        self._where = where
        self.chats = bool(self._tokenizer.chat_template)
        self.end: int = self._tokenizer.eos_token_id
        self.frame = cache(self._frame)

    def tokens(self, conversation: Text) -> list[int]:
        """A conversation up to where an answer begins; plain text as it is."""
        if isinstance(conversation, str):
            return [*self._opening(), *self.ids(conversation, plain=True)]
        return [*self.said(conversation), *self.ids(self.frame(roles(conversation))[-1])]

    def said(self, conversation: Sequence[Message]) -> list[int]:
        """A conversation up to the end of what its last turn says."""
        frame = self.frame(roles(conversation))
        parts = [
            [*self.ids(before), *self.ids(turn["content"], plain=True)]
            for before, turn in zip(frame[:-1], conversation, strict=True)
        ]
        return [*([] if self.chats else self._opening()), *(token for part in parts for token in part)]

    def ids(self, text: str, *, plain: bool = False) -> list[int]:
        """Tokens of a text. plain: marks in it are letters."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"])

    def _frame(self, turns: tuple[str, ...]) -> list[str]:
        """What is written before each turn of a conversation of these roles, and behind the last."""
        if not self.chats:
            return ["", *["\n\n"] * len(turns)]
        marks = [_PLACE.format(at) for at in range(len(turns))]
        messages = [{"role": role, "content": mark} for role, mark in zip(turns, marks, strict=True)]
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        places = [text.find(mark) for mark in marks]
        if any(text.count(mark) != 1 for mark in marks) or places != sorted(places):
            what = f"the chat template of {self._origin} does not keep what is said in {len(turns)} turns"
            raise UserError(Problem(self._where, what, "use a model with another chat template"))
        ends = [0, *(place + len(mark) for place, mark in zip(places, marks, strict=True))]
        return [text[start:end] for start, end in zip(ends, [*places, len(text)], strict=True)]

    def _opening(self) -> list[int]:
        """The begin token, of a tokenizer that opens every text with it; a chat template writes its own."""
        begin = self._tokenizer.bos_token_id
        first: list[int] = self._tokenizer("a")["input_ids"][:1]
        return [begin] if first == [begin] else []


def roles(conversation: Sequence[Message]) -> tuple[str, ...]:
    """Who speaks in each turn."""
    return tuple(turn["role"] for turn in conversation)

"""Text to tokens, for completions that come as text."""

from __future__ import annotations

from typing import Any, Protocol

from truing.errors import Problem, UserError

_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = [*_PRINTED, *(byte for byte in range(256) if byte not in _PRINTED)]
"""Bytes in the order in which byte-level tokenizers number them; so `scratch-lm` has the same tokens."""


class Encoder(Protocol):
    """A tokenizer, as far as it is needed here. end: the token that ends a completion."""

    end: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...


class Bytes:
    """A token for every byte, and one that ends a completion."""

    end = 256
    _number = {byte: number for number, byte in enumerate(BYTE_ORDER)}

    def encode(self, text: str) -> list[int]:
        return [self._number[byte] for byte in text.encode()]

    def decode(self, tokens: list[int]) -> str:
        return bytes(BYTE_ORDER[token] for token in tokens if token != self.end).decode(errors="replace")


class Pretrained:
    """A tokenizer from a folder or the hub. Raises UserError if there is none, or it has no end token."""

    def __init__(self, place: str, where: str) -> None:
        from transformers import AutoTokenizer

        tokenizers: Any = AutoTokenizer
        try:
            self._tokenizer = tokenizers.from_pretrained(place, trust_remote_code=False)
        except (OSError, ValueError) as error:
            what = f"transformers cannot load the tokenizer of {place}: {str(error).splitlines()[0]}"
            raise UserError(Problem(where, what, "name a folder or hub id that has one")) from None
        if self._tokenizer.eos_token_id is None:
            raise UserError(Problem(where, f"the tokenizer of {place} has no end token", "name another one"))
        self.end: int = self._tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

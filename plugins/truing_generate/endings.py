"""When a completion is over: at its end token, at a stop string, or at its longest length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from truing_generate.completions import Finish

_TAIL = 8
"""tokens before the ones a stop string can span that are decoded with them, so that a split character is whole"""


class Ending(NamedTuple):
    """How a completion, or a turn of one, ends: "" if it goes on. text: if a stop string cut it, which is `stop`."""

    finish: Finish | Literal[""]
    text: str = ""
    stop: str = ""


GOES_ON = Ending("")


class Endings:
    """Looks at the last token of a completion. tokenizer, model: of transformers; the end tokens are those of both."""

    def __init__(self, tokenizer: Any, model: Any, stop: Sequence[str], longest: int) -> None:
        self._tokenizer = tokenizer
        configured: int | list[int] | None = getattr(model.generation_config, "eos_token_id", None)
        several = configured if isinstance(configured, list) else [configured]
        self.ends = {token for token in (tokenizer.eos_token_id, *several) if token is not None}
        self._stop = stop
        self._longest = longest
        # No token is shorter than a byte, so a stop string spans no more tokens than it has bytes.
        self._window = max((len(text.encode()) for text in stop), default=0) + _TAIL

    def __call__(self, tokens: list[int], before: int = 0) -> Ending:
        """How a completion ends here, if it does. tokens: of its last turn; before: how many it has of earlier ones."""
        if tokens[-1] in self.ends:
            return Ending("end")
        if self._stop and any(text in self._tokenizer.decode(tokens[-self._window :]) for text in self._stop):
            whole = self._tokenizer.decode(tokens, skip_special_tokens=True)
            cut = [(at, text) for text in self._stop if (at := whole.find(text)) >= 0]
            if cut:
                at, text = min(cut)
                return Ending("stop", whole[:at], text)
        return Ending("length" if before + len(tokens) >= self._longest else "")

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a completion, its end token left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

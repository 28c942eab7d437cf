"""The menu of what a policy is paid for beside its answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import GROUP, SCORES, SEQ, Fields, fields
from truing.stage import Fault, ScorerSpec


class Overlong(ScorerSpec, frozen=True, kw_only=True):
    """What a completion loses by its length: 0 up to `longest` less `buffer` tokens, then ever more, and 1 from
    `longest` on (soft overlong punishment, DAPO, arXiv:2503.14476, eq. 13).

    For a `mix` with the scorer that says what an answer is worth.
    """

    name: ClassVar[str] = "overlong"
    target: ClassVar[str] = "truing_policy.overlong:Overlong"

    longest: Annotated[int, Meta(ge=1, description="tokens from which on a completion loses most")]
    buffer: Annotated[int, Meta(ge=1, description="over how many tokens before it the loss grows from 0 to 1")]

    def requires(self) -> Fields:
        """Completions and their tokens."""
        return fields(GROUP, SEQ)

    def provides(self) -> Fields:
        """Scores from -1 to 0."""
        return fields(SCORES)

    def problems(self) -> Iterable[Fault]:
        """A buffer that begins before the completion."""
        if self.buffer > self.longest:
            yield Fault("buffer", f"it is longer than the longest completion, {self.longest}", "make it shorter")

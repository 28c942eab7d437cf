"""The menu of looks at the holdout of a phase that samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from truing.fields import SCORE_PARTS, SCORES, Fields, fields
from truing.stage import Fault, LookSpec


class Sampled(LookSpec, frozen=True, kw_only=True):
    """How a look samples the holdout."""

    samples: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="completions of each prompt; none: as many as in training")
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="temperature they are sampled at; 0: always the likeliest token; none: that of training"),
    ] = None
    shown: Annotated[
        int, Meta(ge=0, description="of how many prompts the completions are kept as a table, for people to read")
    ] = 0


class PassAtK(Sampled, frozen=True, kw_only=True):
    """Several completions of each prompt, at a temperature of their own: is one of k right, are they on average, and
    what would they decide by vote?

    `pass@k` is the chance that one of k completions is right, without bias from those there are (arXiv:2107.03374,
    eq. 1); `pass@k/error` is its standard error over the prompts. `majority@n` is how often the answer that most of a
    prompt's n completions give is right (arXiv:2203.11171); answers that tie share it. `score`, the mean over all
    completions, is told in any case.
    """

    name: ClassVar[str] = "pass-at-k"
    target: ClassVar[str] = "truing_evaluate.looks:PassAtK"

    k: Annotated[
        list[Annotated[int, Meta(ge=1)]],
        Meta(description="of how many completions one is to be right: pass@1 and pass@8 are k = [1, 8]"),
    ] = msgspec.field(default_factory=lambda: [1])
    right: Annotated[float, Meta(description="the least score of a right completion")] = 1.0
    by: Annotated[str, Meta(description='the member of a mix whose score counts; "": the score itself')] = ""
    vote_after: Annotated[
        str | None,
        Meta(
            description="completions also vote for what stands behind this mark where it stands for the last "
            'time, majority@n; "": for all they say; none: they do not'
        ),
    ] = None

    def requires(self) -> Fields:
        return fields(SCORE_PARTS if self.by else SCORES)

    def problems(self) -> Iterator[Fault]:
        """More completions in a draw than there are."""
        if not self.k:
            yield Fault("k", "nothing is counted", "k = [1] counts how many completions are right")
        elif self.samples and self.samples < max(self.k):
            what = f"{max(self.k)} of {self.samples} completions cannot be drawn"
            yield Fault("k", what, f"set samples = {max(self.k)}, or lower k")

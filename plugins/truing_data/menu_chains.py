"""The menu entry of sums of many terms, worked out step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import COMPLETIONS, GROUP, IDS, PROMPTS, Fields, fields
from truing.stage import Fault, SourceSpec
from truing_data.handing_out import Bootstrap, Shuffle


class ArithmeticChains(SourceSpec, frozen=True, kw_only=True):
    """Sums of several terms, worked out one operation a line: no download, as many as you like.

    "47+38-19" is answered by the lines "47+38=85" and "85-19=66". Every line can be checked by itself, and against the
    line before it, so it is known exactly which steps of a solution are right: for trying out what judges steps. No
    value on the way is negative.

    The questions of one source are all different. A holdout with the same options whose `skip` is the source's `size`
    therefore asks nothing that was trained on; another `seed` may repeat a question by chance.
    """

    name: ClassVar[str] = "arithmetic-chains"
    target: ClassVar[str] = "truing_data.chains:arithmetic_chains"

    least: Annotated[int, Meta(ge=1, description="operations of the shortest sums, each a step")] = 4
    most: Annotated[int, Meta(ge=1, description="operations of the longest sums")] = 6
    digits: Annotated[int, Meta(ge=1, le=9, description="digits of what is added and taken away")] = 2
    first: Annotated[int, Meta(ge=1, le=9, description="digits of the number it begins with")] = 2
    size: Annotated[int, Meta(ge=1, description="how many questions")] = 512
    skip: Annotated[
        int, Meta(ge=0, description="questions left out at the start; for a holdout, the `size` of the source")
    ] = 0
    seed: Annotated[int, Meta(description="which questions; independent of the run's seed")] = 0
    system: Annotated[str | None, Meta(description="system message put before every question")] = None
    chat: Annotated[
        bool, Meta(description="a user and an assistant message; false: plain text, the question on a line of its own")
    ] = True
    bootstrap: Bootstrap = None
    shuffle: Shuffle = True

    def provides(self) -> Fields:
        """Demonstrations."""
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)

    def problems(self) -> Iterator[Fault]:
        """Numbers of steps that leave none, and a system message without messages."""
        if self.least > self.most:
            yield Fault(
                "least", f"no sum has {self.least} operations or more, and {self.most} at most", "lower `least`"
            )
        if self.system is not None and not self.chat:
            yield Fault(
                "system", "a plain-text prompt takes no system message", "use chat = true, or leave `system` out"
            )

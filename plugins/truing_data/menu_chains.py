"""The menu entry of sums that are worked out step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import COMPLETIONS, GROUP, IDS, PROMPTS, Fields, fields
from truing.stage import Fault, SourceSpec
from truing_data.handing_out import Bootstrap, Shuffle


class ArithmeticChains(SourceSpec, frozen=True, kw_only=True):
    """Sums worked out one number at a time: no download, as many as you like, and of every step it is known whether it
    is right.

    "47 +3 -8" is answered by the lines "47+3=50" and "50-8=42". A step is right if it does what comes next to what the
    step before it came to; a wrong total stays in all that follow. For trying out what judges steps.

    With `form = "calls"` the steps are calls of a calculator, and the last total stands on a line of its own. What the
    calculator says is a turn of the user's, as in what is sampled with it: the model is not to learn it.

    With a `modulus` totals go round, as hours do: there are few different steps, all of which a small model can learn.
    Then demonstrations may be wrong as people are, who do not err at random but have learned this or that wrongly. Some
    steps, `misconceptions` of all there are, are `mistaken` now and then: they come out one to three too large, each
    always by as much, and the demonstration goes on from there. Whoever learns from it is wrong in few ways, each of
    them often, so that even the commonest of many answers may be a wrong one. Questions are the same ones without
    misconceptions: that is the source to check answers by.

    The questions of one source are all different. A holdout with the same options whose `skip` is the source's `size`
    therefore asks nothing that was trained on; another `seed` may repeat a question by chance.
    """

    name: ClassVar[str] = "arithmetic-chains"
    target: ClassVar[str] = "truing_data.chains:arithmetic_chains"

    operations: Annotated[int, Meta(ge=1, description="numbers to add or take away, each a step")] = 6
    digits: Annotated[int, Meta(ge=1, le=9, description="digits of every total; with a modulus it has no effect")] = 2
    modulus: Annotated[
        int,
        Meta(ge=0, description="totals go round from this less one to 0; 0: they do not, and have `digits`"),
    ] = 0
    largest: Annotated[int, Meta(ge=1, description="largest number to add or take away; the smallest is 1")] = 9
    misconceptions: Annotated[
        float, Meta(ge=0, le=1, description="of all different steps, the share that demonstrations get wrong at times")
    ] = 0.0
    mistaken: Annotated[
        float, Meta(ge=0, le=1, description="how often they get such a step wrong; always with the same wrong total")
    ] = 0.5
    form: Annotated[
        Literal["steps", "calls"],
        Meta(description="what a demonstration shows: steps, or calls of a calculator and the answer behind them"),
    ] = "steps"
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
        """A system message without messages, totals that do not go round, and mistakes without misconceptions."""
        if self.system is not None and not self.chat:
            yield Fault(
                "system", "a plain-text prompt takes no system message", "use chat = true, or leave `system` out"
            )
        if self.modulus == 1:
            yield Fault("modulus", "there is one total, 0, and nothing to work out", "modulus = 20, for example")
        if self.misconceptions and not self.modulus:
            what = "a wrong total may leave the range that steps are asked for, unless totals go round"
            yield Fault("misconceptions", what, "write modulus = 20, for example")
        if not self.misconceptions and self.mistaken != 0.5:
            yield Fault("mistaken", "mistaken has no effect: misconceptions = 0", "set misconceptions above 0")

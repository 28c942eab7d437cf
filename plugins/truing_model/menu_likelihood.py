"""The menu entry of how likely a model finds completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.fields import SCORES, Fields, fields
from truing.stage import Fault
from truing_model import paths
from truing_model.menu_place import ModelScorer
from truing_model.plugin import ENCODED


class Likelihood(ModelScorer, frozen=True, kw_only=True):
    """How likely a model would write a completion: the sum of the log-probabilities of its tokens, in nats.

    Of two answers that came with a question it says which one the model would rather give, whether or not it can be
    made to say so (arXiv:2212.09251, section 4).
    """

    name: ClassVar[str] = "likelihood"
    target: ClassVar[str] = "truing_model.divergence:Likelihood"

    path: Annotated[
        str,
        Meta(
            description="the model: a folder, a hub id, a .gguf file, or @PHASE for what an earlier phase made",
            extra=PHASE_MODEL,
        ),
    ]

    def requires(self) -> Fields:
        return ENCODED

    def provides(self) -> Fields:
        return fields(SCORES)

    def unit(self) -> str:
        return "nats"

    def problems(self) -> Iterable[Fault]:
        yield from paths.problems(self.path)

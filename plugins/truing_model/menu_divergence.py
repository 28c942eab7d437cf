"""The menu entry of how far a policy has gone from another model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.fields import LOGPROBS_OLD, SCORES, Fields, fields
from truing.stage import Fault
from truing_model import paths
from truing_model.menu_place import ModelScorer
from truing_model.plugin import ENCODED


class Divergence(ModelScorer, frozen=True, kw_only=True):
    """How far the policy has gone from a reference: an estimate of the KL divergence, in nats a completion.

    Of a completion it is the sum over its tokens; the mean over completions is the divergence of the policy from the
    reference, if they were sampled from the policy as it is, without a temperature or a cut. Inside of a `mix` with
    weight 0 it is watched, and `[[loop.until]]` can make a budget of it; with a negative weight it is the penalty of
    arXiv:2203.02155, eq. 2, taken off the reward of the whole completion.
    """

    name: ClassVar[str] = "divergence"
    target: ClassVar[str] = "truing_model.divergence:Divergence"
    offers: ClassVar = {SCORES: "and the reference in `path`"}

    path: Annotated[
        str,
        Meta(
            description="the reference: a folder, a hub id, a .gguf file, or @PHASE for what an earlier phase made",
            extra=PHASE_MODEL,
        ),
    ]
    estimate: Annotated[
        Literal["k1", "k3"],
        Meta(
            description="of a token, with r its log-probability under the policy minus that under the reference. "
            "k1: r, the one to penalise. k3: exp(-r) - 1 + r, never negative and steadier near 0, to watch"
        ),
    ] = "k1"

    def requires(self) -> Fields:
        return ENCODED | fields(LOGPROBS_OLD)

    def provides(self) -> Fields:
        return fields(SCORES)

    def unit(self) -> str:
        return "nats"

    def problems(self) -> Iterable[Fault]:
        yield from paths.problems(self.path)

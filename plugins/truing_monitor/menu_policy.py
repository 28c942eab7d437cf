"""The menu of what watches a policy that learns from its own samples: a scorer that measures them, and alarms."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import GROUP, SCORE_PARTS, SCORES, SEQ, TOKENS, Fields, fields
from truing.stage import ObserverSpec, ScorerSpec

PolicyAlarm = Literal["overoptimization", "length-drift", "repetition", "diversity-collapse", "kl-budget"]
Smooth = Annotated[
    int, Meta(ge=5, description="steps whose mean is compared; fewer in a phase of less than five times as many")
]


class Diversity(ScorerSpec, frozen=True, kw_only=True):
    """How different the completions of a prompt are from each other: 1 minus self-BLEU, from 0 to 1.

    Inside of a `mix` with weight 0 it is watched, and these are reported beside it. `self-bleu`: BLEU of a completion
    with the others of its prompt as references (arXiv:1802.01886). `distinct`: how many of the n-grams of a prompt's
    completions are different, as a share of all (arXiv:1510.03055). `repetition`: the share of a completion's n-grams
    that it has said before (arXiv:1908.04319). `entropy`: the mean of -log p over sampled tokens, which is that of the
    policy in nats a token, where the generator knows log-probabilities. n-grams are of the policy's tokens.
    """

    name: ClassVar[str] = "diversity"
    target: ClassVar[str] = "truing_monitor.diversity:Diversity"
    offers: ClassVar = {SCORES: "where completions are sampled"}

    n: Annotated[int, Meta(ge=1, description="length of the n-grams of `distinct` and `repetition`")] = 2
    order: Annotated[int, Meta(ge=1, description="longest n-grams of BLEU")] = 4

    def requires(self) -> Fields:
        return fields(TOKENS, SEQ, GROUP)

    def provides(self) -> Fields:
        return fields(SCORES, SCORE_PARTS)

    def unit(self) -> str:
        return "share"


class PolicyMonitor(ObserverSpec, frozen=True, kw_only=True):
    """Raises an alarm when a policy that learns from its samples goes wrong; the console and MLflow show it.

    overoptimization: gold, a better judge that a `mix` watches with weight 0, falls below its best while the score that
    is learned from does not (arXiv:2210.10760). length-drift: completions become much longer or shorter. repetition:
    they say again what they have said. diversity-collapse: those of a prompt become alike, or the policy's entropy
    falls. kl-budget: the policy is farther from its reference than it was to go.

    What has changed must have changed beyond its threshold and beyond what chance does. An alarm is raised once, and
    again only after its numbers were well for a while. The thresholds are conventions of this project.
    """

    name: ClassVar[str] = "policy-monitor"
    target: ClassVar[str] = "truing_monitor.observer:PolicyObserver"

    gold: Annotated[str, Meta(description="what the better judge is called in the mix")] = "gold"
    kl: Annotated[str, Meta(description="what the scorer `divergence` is called in the mix")] = "kl"
    diversity: Annotated[str, Meta(description="what the scorer `diversity` is called in the mix")] = "diversity"
    overoptimization: Annotated[
        float, Meta(gt=0, description="what share of what it had gained gold may lose while the score rises")
    ] = 0.1
    length_drift: Annotated[
        float, Meta(gt=0, description="by what share of its first value the length of completions may change")
    ] = 0.5
    repetition: Annotated[
        float, Meta(gt=0, le=1, description="how much larger the share of repeated n-grams may become")
    ] = 0.2
    diversity_collapse: Annotated[
        float, Meta(gt=0, le=1, description="what share of their first value diversity, distinct and entropy may lose")
    ] = 0.5
    kl_budget: Annotated[
        float | None, Meta(description="how far the policy may go, in nats a completion; no limit when not given")
    ] = None
    smooth: Smooth = 20
    stop_on: Annotated[list[PolicyAlarm], Meta(description="alarms that stop the run, with a checkpoint")] = []

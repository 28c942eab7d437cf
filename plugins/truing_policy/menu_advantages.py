"""The menu of advantage estimators: from scores, and what a model says of completions, to advantages of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    ADVANTAGES,
    GROUP,
    IDS,
    KL_COEFFICIENT,
    LOGPROBS_OLD,
    LOGPROBS_REF,
    OPPONENT,
    RETURNS,
    SCORE_PARTS,
    SCORES,
    SEQ,
    STEP_END,
    STEP_SCORES,
    STEP_SEQ,
    VALUES_OLD,
    Fields,
    fields,
)
from truing.stage import AdvantageSpec, Fault

_BEHIND = "behind a [scorer]"
_INSIDE = 'as [model.advantage], in a model "policy" with value_head = true,'


class Shaped(AdvantageSpec, frozen=True, kw_only=True):
    """What all estimators share that begin with a reward: a score, less what it cost to leave the reference."""

    offers: ClassVar = {ADVANTAGES: _BEHIND}

    kl: Annotated[
        Annotated[float, Meta(ge=0)] | Literal["controlled"],
        Meta(
            description="what each nat of KL divergence from the reference costs of the reward, in units of the score; "
            '"controlled": what a [controller] says. Unless it is 0 the estimator belongs into the model "policy", as '
            "[model.advantage]",
        ),
    ] = 0.0
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"],
        Meta(
            description="of the divergence at a token. k1, the log-ratio, is the one whose expected gradient is right; "
            "k2 and k3 never pay for a token, and pull towards another policy"
        ),
    ] = "k1"

    def requires(self) -> Fields:
        """Scored completions, and both log-probabilities if leaving the reference costs anything."""
        needs = fields(SCORES, GROUP, SEQ)
        return needs | fields(LOGPROBS_OLD, LOGPROBS_REF) | heeded(self.kl) if self.kl else needs

    def provides(self) -> Fields:
        """Advantages."""
        return fields(ADVANTAGES)

    def problems(self) -> Iterable[Fault]:
        """An estimator of nothing."""
        if not self.kl and self.kl_estimator != "k1":
            yield Fault("kl_estimator", "nothing is paid for leaving the reference: kl is 0", "set kl above 0")


class GroupRelative(Shaped, frozen=True, kw_only=True):
    """A rollout's reward against the mean of its group, the same for each of its tokens (arXiv:2402.03300, 4.1.2).

    Without `scale` it is that of Dr. GRPO (arXiv:2503.20783): a group's standard deviation no longer favours prompts
    whose rollouts are nearly all alike.
    """

    name: ClassVar[str] = "group-relative"
    target: ClassVar[str] = "truing_policy.advantages:GroupRelative"

    scale: Annotated[bool, Meta(description="divide by the standard deviation of the group's rewards")] = True
    expectile: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="which expectile of the group's rewards they are compared with. 0.5: their mean; towards 1 the "
            "best of them, so that little but the best becomes likelier and the rest much less so",
        ),
    ] = 0.5


class LeaveOneOut(Shaped, frozen=True, kw_only=True):
    """A rollout's reward against the mean of the others of its group, the same for each of its tokens (RLOO,
    arXiv:2402.14740).

    A baseline that does not depend on the rollout itself, so the gradient is unbiased. A rollout that is alone in its
    group has advantage 0.
    """

    name: ClassVar[str] = "leave-one-out"
    target: ClassVar[str] = "truing_policy.advantages:LeaveOneOut"


class Remax(Shaped, frozen=True, kw_only=True):
    """A rollout's reward against that of the greedy completion of its prompt, the same for each of its tokens (ReMax,
    arXiv:2310.10505, eq. 5).

    Wants `opponents = 1`, `mixture = 0` and `opponent_temperature = 0` in [generator]: the policy's likeliest
    completion, which is scored as the others are and then left out. A group without both kinds is left out, too. One
    rollout a prompt is enough.
    """

    name: ClassVar[str] = "remax"
    target: ClassVar[str] = "truing_policy.choosing:Remax"

    def requires(self) -> Fields:
        """Rewards, and which completions are there for comparison."""
        return Shaped.requires(self) | fields(IDS, OPPONENT)


class Whitened(Shaped, frozen=True, kw_only=True):
    """The reward still to come at each token, less the mean and over the standard deviation of all tokens of the batch
    (REINFORCE++, arXiv:2501.03262).

    With baseline = "group" the mean of its group is taken from each reward first (REINFORCE++-baseline), for several
    rollouts a prompt. The paper has kl above 0 without a baseline, and with one a KL term in the loss, of k2.
    """

    name: ClassVar[str] = "whitened"
    target: ClassVar[str] = "truing_policy.advantages:Whitened"

    baseline: Annotated[
        Literal["none", "group"], Meta(description="what is taken from a score before: nothing, or its group's mean")
    ] = "none"


class BestOfGroup(AdvantageSpec, frozen=True, kw_only=True):
    """The best-scored completions of each group alone, for the loss `sft` to learn: best-of-n distillation (RAFT,
    arXiv:2304.06767).

    Of completions that score alike the first counts. A group all of whose scores are alike is dropped: its best is no
    better than the rest.
    """

    name: ClassVar[str] = "best-of-group"
    target: ClassVar[str] = "truing_policy.choosing:BestOfGroup"

    keep: Annotated[int, Meta(ge=1, description="how many completions of a group are kept")] = 1

    def requires(self) -> Fields:
        """Scored completions."""
        return fields(IDS, SCORES, GROUP)


class DynamicSampling(AdvantageSpec, frozen=True, kw_only=True):
    """Drops groups whose scores are all equal, which teach nothing, and leaves the rest to another estimator (DAPO,
    arXiv:2503.14476, eq. 11).

    The paper samples until a batch is full: `loop.refill` says how often others are sampled in their place, and without
    it a step is made of what is left. A step of which nothing is left is none.
    """

    name: ClassVar[str] = "dynamic-sampling"
    target: ClassVar[str] = "truing_policy.choosing:DynamicSampling"
    offers: ClassVar = {ADVANTAGES: "with an estimator in [advantage.of]"}

    of: Annotated[
        AdvantageSpec | None,
        Meta(description="what makes advantages of the groups that are left; none: an estimator in [model.advantage]"),
    ] = None
    part: Annotated[
        str,
        Meta(description='which of the scores of a mix must differ, by its name there; "": the score that is learned'),
    ] = ""

    def requires(self) -> Fields:
        """Scored completions, and what the other estimator needs."""
        needs = fields(IDS, SCORES, GROUP) | (fields(SCORE_PARTS) if self.part else fields())
        return needs | self.of.requires() if self.of else needs

    def provides(self) -> Fields:
        """What the other estimator does."""
        return self.of.provides() if self.of else fields()


class Temporal(Shaped, frozen=True, kw_only=True):
    """What estimators share that look at rewards token by token."""

    discount: Annotated[
        float, Meta(gt=0, le=1, description="what a reward is worth one token earlier, gamma; 1: the same")
    ] = 1.0
    step_weight: Annotated[
        float,
        Meta(
            ge=0,
            description="what a step is worth at its last token, times the probability that it is right, as a process "
            "reward model says; 0: none is asked",
        ),
    ] = 0.0
    whiten: Annotated[
        bool, Meta(description="over the batch's tokens, advantages get mean 0 and standard deviation 1")
    ] = True

    def requires(self) -> Fields:
        """What rewards are made of."""
        needs = Shaped.requires(self)
        return needs | fields(STEP_SCORES, STEP_SEQ, STEP_END) if self.step_weight else needs


class Gae(Temporal, frozen=True, kw_only=True):
    """Generalized advantage estimation (arXiv:1506.02438, eq. 16), and the returns that the value function learns.

    Needs values, so it stands inside of the model that gives them, `policy`, as [model.advantage]. A completion that
    was cut counts as over.
    """

    name: ClassVar[str] = "gae"
    target: ClassVar[str] = "truing_policy.temporal:Gae"
    offers: ClassVar = {ADVANTAGES: _INSIDE, RETURNS: _INSIDE}

    trace: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="lambda: 0 trusts the values alone, 1 the rewards that came; in between, less variance for "
            "some bias",
        ),
    ] = 0.95

    def requires(self) -> Fields:
        """Rewards and values."""
        return Temporal.requires(self) | fields(VALUES_OLD)

    def provides(self) -> Fields:
        """Advantages, and what values should have been."""
        return fields(ADVANTAGES, RETURNS)


class MonteCarlo(Temporal, frozen=True, kw_only=True):
    """The discounted reward still to come at each token: the return of REINFORCE (Williams, 1992), no baseline but the
    mean that `whiten` takes away."""

    name: ClassVar[str] = "monte-carlo"
    target: ClassVar[str] = "truing_policy.temporal:MonteCarlo"


class Process(AdvantageSpec, frozen=True, kw_only=True):
    """Process supervision of GRPO (arXiv:2402.03300, section 4.1.3): the rewards of the steps that end at a token or
    behind it, each against all steps of its group.

    A step's reward is the probability that it is right, from the scorer `process-reward-model`. Tokens behind the last
    step, and completions without steps, have advantage 0 but for `outcome`.
    """

    name: ClassVar[str] = "process"
    target: ClassVar[str] = "truing_policy.temporal:Process"
    offers: ClassVar = {ADVANTAGES: "behind a scorer of steps"}

    scale: Annotated[bool, Meta(description="divide by the standard deviation of the rewards of a group's steps")] = (
        True
    )
    outcome: Annotated[
        float,
        Meta(ge=0, description="weight of the completion's own score against its group's, added to every token"),
    ] = 0.0

    def requires(self) -> Fields:
        """Steps with scores."""
        needs = fields(GROUP, SEQ, STEP_SCORES, STEP_SEQ, STEP_END)
        return needs | fields(SCORES) if self.outcome else needs

    def provides(self) -> Fields:
        """Advantages."""
        return fields(ADVANTAGES)


def heeded(kl: float | Literal["controlled"]) -> Fields:
    """What a controller sets, if it is to."""
    return fields(KL_COEFFICIENT) if kl == "controlled" else fields()

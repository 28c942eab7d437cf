"""The policy of online RL: a language model with its advantage estimator, learning from a batch several times.

    annotate:  what the model says of the batch -> estimator
    learn:     passes x minibatches, an optimizer step each

All passes over a batch are one step of the loop: its version counts batches, so the age of a completion is counted in
weights that were sampled from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch

from truing.errors import RunFailed
from truing.fields import GROUP, IDS, LOGPROBS_OLD, LOGPROBS_REF, Batch, Fields, fields
from truing.run import Run
from truing.stage import Loss, Optimizer
from truing_model import menu_policy as menu, plugin
from truing_model.causal import CausalLm
from truing_model.critic import ActorCritic, Critic, fitting
from truing_model.learner import MODEL
from truing_tensor.groups import take


class Policy(CausalLm):
    """A language model that learns from what it writes. version: batches learned from."""

    spec: menu.Policy

    def __init__(self, spec: menu.Policy, run: Run) -> None:
        self._looks_at = spec.advantage.requires() if spec.advantage else fields()
        super().__init__(spec, replace(run, wanted=run.wanted | self._looks_at))
        self._estimator = spec.advantage.build(run) if spec.advantage else None
        self._critic: Critic | None = None
        if spec.critic:
            # What the policy is wanted to give, the critic is not: it needs no reference.
            self._critic = fitting(Critic(cast(plugin.RewardModel, spec.critic), run.at(run.phase, fields())), self)
            self.network = ActorCritic(self.network, self._critic.network)
            self._drops |= self._critic._drops
            self.offloaded[MODEL] += self._critic.offloaded[MODEL]
        self._begun = False

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        """What a language model adds, and ADVANTAGES [token] if it has an estimator.

        Raises Stopped, and RunFailed where the estimator leaves every group out: by now the batch is a step.
        """
        batch = super().annotate(batch, wanted | self._looks_at)
        if self._estimator:
            batch = self._estimator.estimate(batch)
        if not batch[IDS]:
            what = "the estimator in [model.advantage] leaves out every group of a batch"
            raise RunFailed(f"{what}; as [advantage] it can, and a step of which nothing is left is none")
        return batch

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        """Prepare to learn from so many batches."""
        super().attach(optimizer, steps * self.spec.passes * self.spec.minibatches)

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """Learn from a batch, pass after pass. What is reported is the mean over its optimizer steps.

        Raises Stopped with nothing changed, so only before the first of them is through, and RunFailed when something
        is not a number.
        """
        version, reports = self.version, list[Mapping[str, float]]()
        try:
            with self._as(MODEL):
                for part in self._parts(batch):
                    reports.append(super().learn(part, loss))
                    self._begun = True
        finally:
            self._begun = False
        self.version = version + 1
        return {**_averaged(reports), **_departure(batch)}

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write a folder that transformers loads; in `critic/` the critic, if it has one."""
        with self.crew.whole(MODEL):
            facts = dict(super().export(folder))
            if self._critic:
                facts["critic"] = self._critic.export(folder / "critic")["parameters"]
        return facts

    def _unless_stopped(self) -> None:
        if not self._begun:
            super()._unless_stopped()

    def _parts(self, batch: Batch) -> Sequence[Batch]:
        """The batches of all optimizer steps: in every pass each group once, dealt anew."""
        count = min(self.spec.minibatches, len(batch[IDS]))
        if count == 1:
            return [batch] * self.spec.passes
        found: list[Batch] = []
        for number in range(self.spec.passes):
            seed = self.run.seed_for("pass", self.run.phase, self.version, number)
            order = torch.randperm(len(batch[IDS]), generator=torch.Generator().manual_seed(seed)).tolist()
            found += [take(batch, sorted(order[at::count])) for at in range(count)]
        return found


def _averaged(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What several optimizer steps come to: means, but for the tokens, which add up, and the last learning rate."""
    names = dict.fromkeys(name for report in reports for name in report)
    found = {name: fmean(report[name] for report in reports if name in report) for name in names}
    tokens = sum(report["tokens"] for report in reports)
    return {**found, "tokens": tokens, "learning_rate": reports[-1]["learning_rate"]}


def _departure(batch: Batch) -> Mapping[str, float]:
    """How far completions have left the reference, where both log-probabilities are at hand: the mean log-ratio of
    whole completions, in nats."""
    if LOGPROBS_REF not in batch or LOGPROBS_OLD not in batch:
        return {}
    return {"kl/completion": float((batch[LOGPROBS_OLD] - batch[LOGPROBS_REF]).sum()) / len(batch[GROUP])}

"""What max-min does for the group that is pleased least: a policy over forty strings, people with planted tastes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import anyio
import pytest
import torch
from msgspec import Meta
from torch import Tensor

from truing.fields import GROUP, SCORES, Batch
from truing.run import Run
from truing.stage import ScorerSpec
from truing_pluralism.menu_groups import MaxMin
from truing_pluralism.menu_planted import PlantedAnnotators
from truing_pluralism.planted import PlantedPeople

NOBODY: Any = None
SHARES = {"majority": 10.0, "minority": 1.0}
WORTH = torch.zeros(0, 2)
"""[completion, group]: what each group thinks of what was sampled."""


class Likes(ScorerSpec, frozen=True, kw_only=True):
    """What one group thinks of completions."""

    group: Annotated[int, Meta(description="which")]

    def build(self, run: Run) -> Any:
        return self

    async def score(self, batch: Batch) -> Batch:
        return batch.put(SCORES, WORTH[:, self.group])


def pleased(seed: int, max_min: bool, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What each group [group] thinks, in the mean, of a policy that learned by REINFORCE with a KL divergence of 0.1
    from where it began: of the mean over all people, or of the group that is pleased least."""
    spec = PlantedAnnotators(strata=SHARES, agreement=-0.3, pairs=False, size=40, seed=seed)
    people = PlantedPeople(spec)
    said: list[Any] = [group.completions[0] for group in people.groups()]
    worth = torch.tensor([[people.utility(text[0]["content"], name) for name in SHARES] for text in said])
    scorer: Any = MaxMin(members=[Likes(group=0), Likes(group=1)]).build(NOBODY)
    policy = torch.zeros(len(said), requires_grad=True)
    optimizer = torch.optim.Adam([policy], lr=0.1)
    chance = torch.Generator().manual_seed(seed)
    for _ in range(100):
        at = torch.multinomial(policy.detach().softmax(0), 64, replacement=True, generator=chance)
        monkeypatch.setattr("tests.pluralism.test_worst_group.WORTH", worth[at])
        scores = worth[at] @ (torch.tensor(list(SHARES.values())) / 11)
        if max_min:
            scores = anyio.run(scorer.score, Batch({GROUP: torch.arange(64)}))[SCORES]
        logs = policy.log_softmax(0)
        loss = 0.1 * (logs.exp() * logs).sum() - ((scores - scores.mean()) * logs[at]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.detach().softmax(0) @ worth


def test_a_policy_pleases_the_group_that_it_pleases_least_better_by_max_min_than_by_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = partial(pleased, monkeypatch=monkeypatch)
    by_mean = [told(seed, max_min=False) for seed in range(3)]
    by_least = [told(seed, max_min=True) for seed in range(3)]
    for plain, just in zip(by_mean, by_least, strict=True):
        assert just.min() > plain.min() + 0.3
        # What it costs: the many are pleased less.
        assert just[0] < plain[0]

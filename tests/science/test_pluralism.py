"""Who disagrees, on real votes: rewards that know who is asked against one reward for all, in held-out likelihood.

Polis (CC-BY-4.0): statements that people agree or disagree with; a person who agrees with one and disagrees with
another prefers the first. UKPConvArg (CC-BY-4.0): which of two arguments convinces a crowd worker more. A statement, or
an argument, is known by its number alone, so a reward is a row of a table, and no more is learned of it than from
votes. Every person's votes are split: models learn from one part, and are asked for the other. The groups that Polis
itself gives people were made from all votes, the held-out ones among them, so they are not used.

The intervals are of differences per person, people drawn with replacement.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests.science.children import DATA, rows
from torch import Tensor, nn

from truing.fields import (
    ANNOTATOR,
    CHOSEN,
    GROUP,
    IDS,
    MEMBER_SCORES,
    REJECTED,
    SCORES,
    SEQ,
    TASTES,
    TRAITS,
    Batch,
)
from truing.stage import LossSpec
from truing_evaluate.intervals import ratio, resampled
from truing_model.plural import Tastes
from truing_model.step import StepSums, counts_of
from truing_pluralism.menu_losses import BradleyTerryConditioned, BradleyTerryMixture
from truing_reward.menu_losses import BradleyTerry

needs_data = pytest.mark.skipif(not DATA.exists(), reason="real votes are not beside the project (shared/data)")
EPOCHS, SIZE, RATE = 8, 256, 0.05
SHARED = (0.3, 1.0, 3.0)
"""Precisions of the prior of what all share."""
OWN, TRAITS_OF_PEOPLE = 3.0, 4
"""The precision of the prior of tastes and of what they are about; how many traits there are."""


class Vote(NamedTuple):
    """Who prefers which of two things."""

    who: str
    better: int
    worse: int


class Votes(NamedTuple):
    learned: list[Vote]
    held: list[Vote]
    things: int


class Table(nn.Module):
    """Numbers of every thing [thing, number], and tastes of people."""

    def __init__(self, things: int, numbers: int, people: Sequence[str] = ()) -> None:
        super().__init__()
        self.rows = nn.Parameter(0.01 * torch.randn(things, numbers, generator=torch.Generator().manual_seed(0)))
        self.seats = {name: at for at, name in enumerate(people)}
        self.tastes = Tastes(len(people), numbers - 1) if people else None

    def prior(self, shared: float) -> Tensor:
        if self.tastes is None:
            return shared * self.rows.square().sum()
        own = self.rows[:, 1:].square().sum() + self.tastes.weight.square().sum()
        return shared * self.rows[:, 0].square().sum() + OWN * own


def polis(conversation: str) -> Votes:
    """Pairs of statements, one of which a person agrees with and the other of which not; of each person's statements a
    third is held out."""
    learned, held = list[Vote](), list[Vote]()
    places: dict[str, int] = {}
    for row in rows(DATA / "polis_votes.jsonl"):
        if row["conv"] != conversation:
            continue
        chance = random.Random(row["pid"])
        votes = list(row["votes"].items())
        chance.shuffle(votes)
        cut = len(votes) // 3
        for part, into in ((votes[cut:], learned), (votes[:cut], held)):
            sides = {
                side: [places.setdefault(name, len(places)) for name, vote in part if vote == side] for side in (1, -1)
            }
            every = [(one, other) for one in sides[1] for other in sides[-1]]
            into += [Vote(str(row["pid"]), *both) for both in chance.sample(every, min(30, len(every)))]
    return Votes(learned, held, len(places))


def arguments() -> Votes:
    """Which of two arguments a worker voted for; of each worker's votes a third is held out."""
    by_worker: dict[str, list[Vote]] = defaultdict(list)
    places: dict[str, int] = {}
    for row in rows(DATA / "ukpconvarg_pairs.jsonl"):
        two = [places.setdefault(row[side], len(places)) for side in ("a1", "a2")]
        for worker, label in row["votes"]:
            if label != "equal":
                better, worse = two if label == "a1" else two[::-1]
                by_worker[str(worker)].append(Vote(str(worker), better, worse))
    learned, held = list[Vote](), list[Vote]()
    for worker, votes in by_worker.items():
        random.Random(int(worker)).shuffle(votes)
        cut = len(votes) // 3
        held += votes[:cut]
        learned += votes[cut:]
    return Votes(learned, held, len(places))


def batch_of(votes: Sequence[Vote], first: Sequence[int]) -> Batch:
    count = len(votes)
    return Batch(
        {
            IDS: [str(at) for at in first],
            GROUP: torch.arange(count).repeat_interleave(2),
            SEQ: torch.arange(2 * count),
            CHOSEN: torch.arange(0, 2 * count, 2),
            REJECTED: torch.arange(1, 2 * count, 2),
            ANNOTATOR: [vote.who for vote in votes],
        }
    )


def scored(table: Table, votes: Sequence[Vote], batch: Batch, kind: Any) -> Batch:
    rows = table.rows[torch.tensor([[vote.better, vote.worse] for vote in votes]).flatten()]
    if table.tastes:
        seats = torch.tensor([table.seats.get(vote.who, -1) for vote in votes])
        return batch.put_all({TRAITS: rows, TASTES: table.tastes(seats)})
    return batch.put(kind, rows[:, 0] if kind == SCORES else rows)


def taught(votes: Votes, spec: LossSpec, table: Table, kind: Any, shared: float) -> Any:
    """Learn a table with a loss; all that is in it is drawn towards 0. The loss as it is in the end."""
    nobody: Any = None
    loss: Any = spec.build(nobody)
    steps = EPOCHS * -(-len(votes.learned) // SIZE)
    if loss.memory:
        loss.memory.begin(steps)
    optimizer = torch.optim.Adam(table.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    order = list(range(len(votes.learned)))
    for epoch in range(EPOCHS):
        random.Random(epoch).shuffle(order)
        for start in range(0, len(order), SIZE):
            places = order[start : start + SIZE]
            some = [votes.learned[at] for at in places]
            batch = batch_of(some, places)
            value = loss(scored(table, some, batch, kind))
            sums = StepSums(counts_of(batch))
            terms = [term.weight * term.total / sums.denominator(term) for term in value.terms.values()]
            prior = table.prior(shared) / len(order)
            optimizer.zero_grad()
            (torch.stack(terms).sum() + prior).backward()
            optimizer.step()
            schedule.step()
            if loss.memory:
                loss.memory.learned()
    return loss


def per_person(votes: Sequence[Vote], nll: Tensor) -> np.ndarray[Any, Any]:
    """Sums of the likelihoods of each person's votes, and their number, [person, 2]."""
    places = {who: at for at, who in enumerate(dict.fromkeys(vote.who for vote in votes))}
    found = np.zeros((len(places), 2))
    for vote, value in zip(votes, nll.tolist(), strict=True):
        found[places[vote.who]] += (value, 1)
    return found


@torch.no_grad()
def likelihood(votes: Votes, loss: Any, table: Table, kind: Any) -> Tensor:
    """-log p of each held-out vote, in nats, [vote]."""
    found: list[Tensor] = []
    for start in range(0, len(votes.held), 4096):
        some = votes.held[start : start + 4096]
        batch = scored(table, some, batch_of(some, range(len(some))), kind)
        if TRAITS in batch:
            apart = batch[TRAITS][0::2] - batch[TRAITS][1::2]
            found.append(torch.nn.functional.softplus(-(batch[TASTES] * apart).sum(1)))
        elif kind == MEMBER_SCORES:
            weights = torch.tensor([loss.function.belongs(vote.who, batch[kind].shape[1]) for vote in some])
            ahead = torch.nn.functional.logsigmoid(batch[kind][0::2] - batch[kind][1::2])
            found.append(-(weights.log() + ahead).logsumexp(1))
        else:
            found.append(torch.nn.functional.softplus(batch[kind][1::2] - batch[kind][0::2]))
    return torch.cat(found)


@needs_data
@pytest.mark.parametrize(
    ("name", "mixed"),
    [("scoop-hivemind.biodiversity", True), ("canadian-electoral-reform", True), ("arguments", False)],
)
def test_a_reward_that_knows_who_is_asked_predicts_votes_better_than_one_for_all(name: str, mixed: bool) -> None:
    torch.set_num_threads(1)
    votes = arguments() if name == "arguments" else polis(name)
    people = sorted({vote.who for vote in votes.learned})
    # One reward for all has whichever prior is best for it on the very votes that are held out.
    alone = min(
        (asked(votes, BradleyTerry(), Table(votes.things, 1), SCORES, shared) for shared in SHARED),
        key=lambda nll: float(nll.mean()),
    )
    known = Table(votes.things, 1 + TRAITS_OF_PEOPLE, people)
    found = {"who votes": asked(votes, BradleyTerryConditioned(shrink=0.0), known, TRAITS, SHARED[0])}
    if mixed:
        found["two kinds"] = asked(votes, BradleyTerryMixture(), Table(votes.things, 2), MEMBER_SCORES, SHARED[-1])
    print(f"\n{name}: {len(people):,} people, {len(votes.learned):,} votes learned, {len(votes.held):,} held out")
    print(f"one for all {float(alone.mean()):.3f}")
    for what, nll in found.items():
        gain = resampled(per_person(votes.held, alone - nll), ratio)
        print(f"{what} {float(nll.mean()):.3f}, better by {gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]")
        assert gain.low > 0


def asked(votes: Votes, spec: LossSpec, table: Table, kind: Any, shared: float) -> Tensor:
    """-log p of each held-out vote by a table that was taught."""
    return likelihood(votes, taught(votes, spec, table, kind, shared), table, kind)

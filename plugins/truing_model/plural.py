"""Reward models of people who do not agree, and the scorers that ask them.

Names of people become rows of a table when something is learned from them, in that order; the list is kept beside the
weights, `people.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor, nn

from truing.errors import Problem, RunFailed, UserError, did_you_mean
from truing.fields import (
    MEMBER_SCORES,
    NORMAL_SCORES,
    SCORE_PARTS,
    SCORES,
    SCORES_STD,
    TASTES,
    TRAITS,
    Batch,
    Fields,
    fields,
)
from truing.run import Run
from truing.stage import Loss
from truing_model import menu_plural as menu
from truing_model.causal import CausalLm
from truing_model.forward import HEADS, SEAT
from truing_model.loading import KIND, kind_of, numbers_of
from truing_model.plugin import RewardModel as RewardModelSpec
from truing_model.rewards import RewardModel
from truing_tensor.comparisons import mean_and_deviation

PEOPLE = "people.json"


class People(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose tastes a model has. by: annotators or groups; seats: rows of its table; names: of the first of them."""

    by: str
    seats: int
    names: list[str]


class Tastes(nn.Module):
    """A row for everybody, 0 at first."""

    def __init__(self, seats: int, traits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seats, traits))

    def forward(self, seat: Tensor) -> Tensor:
        """[pair, 1 + trait] of `seat` [pair]; of -1 the taste of nobody in particular."""
        rows = self.weight[seat.clamp(min=0)] * (seat >= 0)[:, None]
        return torch.cat([torch.ones_like(rows[:, :1]), rows], 1)


class PluralModel(RewardModel):
    """A reward model whose numbers are no scores: they have no scale, and its configuration says how they are read."""

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        return CausalLm.measure(self, batch, loss)

    def _load(self, path: str, held: torch.dtype) -> Any:
        model = super()._load(path, held)
        setattr(model.config, KIND, self.spec.name)
        return model


class ConditionedRewardModel(PluralModel):
    """A language model that gives TRAITS [seq, 1 + trait] and TASTES [pair, 1 + trait]."""

    spec: menu.ConditionedRewardModel
    gives = TRAITS

    def __init__(self, spec: menu.ConditionedRewardModel, run: Run) -> None:
        super().__init__(spec, run)
        self.seats: dict[str, int] = {}
        if (Path(self.path) / PEOPLE).exists():
            self._sit(read_people(Path(self.path)).names)

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """One optimizer step. Raises Stopped with nothing changed, and RunFailed when there are more people than rows,
        or a prompt that has to be cut between its completions."""
        self._sit(batch[self.spec.who])
        if self._cut(batch).cut:
            raise RunFailed("a prompt and its completions are longer than micro_tokens; set it higher")
        return super().learn(self._seated(batch), loss)

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        return super().measure(self._seated(batch), loss)

    def checkpoint(self, folder: Path) -> None:
        """Write what is needed to go on."""
        super().checkpoint(folder)
        self._write_people(folder)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        super().restore(folder)
        self._sit(read_people(folder).names)

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write a folder that transformers loads, whose tastes are in it, too."""
        facts = super().export(folder)
        self._write_people(folder)
        return {**facts, "people": len(self.seats)}

    def tastes(self, names: list[str]) -> Tensor:
        """[person, 1 + trait] of people whom the model has met."""
        with torch.no_grad():
            return self.network.heads[HEADS[TASTES]](torch.tensor([self.seats[name] for name in names])).float()

    def _gives(self) -> Fields:
        return fields(TRAITS, TASTES)

    def _heads(self, base: Any) -> dict[str, nn.Module]:
        return {**super()._heads(base), HEADS[TASTES]: Tastes(self.spec.people, self.spec.traits)}

    def _sit(self, names: list[str]) -> None:
        for name in names:
            self.seats.setdefault(name, len(self.seats))
        if len(self.seats) > self.spec.people:
            raise RunFailed(f"more than {self.spec.people:,} people compared; set people higher in [model]")

    def _seated(self, batch: Batch) -> Batch:
        return batch.put(SEAT, torch.tensor([self.seats.get(name, -1) for name in batch[self.spec.who]]))

    def _write_people(self, folder: Path) -> None:
        people = People(by=self.spec.by, seats=self.spec.people, names=list(self.seats))
        (folder / PEOPLE).write_bytes(msgspec.json.encode(people))


class RewardDistribution(PluralModel):
    """A language model that gives NORMAL_SCORES [seq, 2]."""

    gives = NORMAL_SCORES


class ConditionedScorer:
    """Asks a conditioned reward model on behalf of people."""

    def __init__(self, spec: menu.ConditionedScorer, run: Run) -> None:
        place, numbers = _of_its_kind(spec, run)
        kept = read_people(place)
        if unknown := [name for name in spec.people if name not in kept.names]:
            what = f'nobody called "{unknown[0]}" was met when the model {spec.path} learned'
            raise UserError(Problem("people", what, did_you_mean(unknown[0], kept.names)))
        options: dict[str, Any] = {"by": kept.by, "people": kept.seats, "traits": numbers - 1}
        model = menu.ConditionedRewardModel(path=spec.path, **spec.placement, **options)
        self._model = model.build(run)
        self._model.network.requires_grad_(False)
        self._names = spec.people or kept.names
        self._tastes = self._model.tastes(self._names)
        self._run = run

    async def score(self, batch: Batch) -> Batch:
        """The batch with MEMBER_SCORES [seq, person], by name as SCORE_PARTS [seq], and their mean as SCORES [seq].
        Raises Stopped."""
        traits = await self._run.on_device(self._model.scores, batch)
        said = traits @ self._tastes.T
        parts = [dict(zip(self._names, row, strict=True)) for row in said.tolist()]
        return batch.put_all({SCORES: said.mean(1), MEMBER_SCORES: said, SCORE_PARTS: parts})


class DistributionScorer:
    """Asks a reward distribution."""

    def __init__(self, spec: menu.DistributionScorer, run: Run) -> None:
        _of_its_kind(spec, run)
        self._model = menu.RewardDistribution(path=spec.path, **spec.placement).build(run)
        self._model.network.requires_grad_(False)
        self._z = 0.0 if spec.quantile is None else NormalDist().inv_cdf(spec.quantile)
        self._run = run

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES and SCORES_STD [seq]. Raises Stopped."""
        mean, deviation = mean_and_deviation(await self._run.on_device(self._model.scores, batch))
        return batch.put_all({SCORES: mean + self._z * deviation, SCORES_STD: deviation})


class _Asks(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...


def read_people(folder: Path) -> People:
    """Whose tastes the model of a folder has. Raises UserError for a file that does not say so."""
    try:
        return msgspec.json.decode((folder / PEOPLE).read_bytes(), type=People)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(Problem(str(folder / PEOPLE), f"no list of people: {error}", "train the model again")) from None


def _of_its_kind(spec: _Asks, run: Run) -> tuple[Path, int]:
    """Where the model of a scorer is, and how many numbers it gives. Raises UserError for one of another kind."""
    place, alone = run.resolve(spec.path), RewardModelSpec(path=spec.path)
    if (kind := kind_of(alone, place)) != spec.name:
        mend = f'name what a phase with [model] use = "{spec.name}" made'
        raise UserError(Problem(spec.path, f"it is {f'a {kind}' if kind else f'no {spec.name}'}", mend))
    return Path(place), numbers_of(alone, place)

"""Looks at the holdout of a phase that samples: each of one version, and at no cost but their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.errors import UserError
from truing.events import CheckpointSaved, Evaluated, SamplesShown, StepDone
from truing.fields import IDS, SAMPLES, SCORES, Batch
from truing.run import Stop
from truing.testing import TOYS, recipe

from .scenes import Grader, Scene, Writer


class Mean:
    """Asks for two samples, tells the mean of the scores, and shows the first prompt."""

    def asked(self, prompts: Batch) -> Batch:
        return prompts.put(SAMPLES, 2)

    def numbers(self, batch: Batch) -> Mapping[str, float]:
        return {"mean": sum(map(float, batch[SCORES])) / len(batch[SCORES])}

    def rows(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        return [{"id": batch[IDS][0]}]


class Slow(Writer):
    """Takes its time over a look, and says what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: list[tuple[int, int]] = []

    async def generate(self, batch: Batch) -> Batch:
        if SAMPLES not in batch:
            return await super().generate(batch)
        version = self.synced[-1]
        await anyio.sleep(0.03)
        assert self.synced[-1] == version, "new weights are out while a look is sampled"
        self.looked.append((version, batch[SAMPLES]))
        return self.written(batch, version)


class Waiting(Grader):
    """Takes its time over the scores of a look; they have three prompts and a wave has two."""

    async def score(self, batch: Batch) -> Batch:
        await anyio.sleep(0.08 if len(batch[IDS]) == 3 else 0)
        return await super().score(batch)


@pytest.mark.parametrize(("beside", "staleness"), [(False, 0), (True, 0), (True, 2)])
def test_a_look_is_of_one_version_and_over_before_the_next_a_checkpoint_and_the_end(
    beside: bool, staleness: int, tmp_path: Path
) -> None:
    writer = Slow()
    options = {"look": Mean(), "beside": beside, "staleness": staleness}
    times = {"evaluate_every": 2, "checkpoint_every": 4, "steps": 6}
    scene = Scene(tmp_path, writer, holdout=True, scorer=Waiting(), **options, **times).go()
    assert writer.looked == [(step, 2) for step in (0, 2, 4, 6)]
    assert [(event.step, event.metrics["mean"]) for event in scene.of(Evaluated)] == [(at, 0.5) for at in (0, 2, 4, 6)]
    assert [event.rows for event in scene.of(SamplesShown)] == [[{"id": "0"}]] * 4
    told = [type(event) for event in scene.events if isinstance(event, Evaluated | CheckpointSaved)]
    assert told.index(CheckpointSaved) == 3
    order = [(type(event), event.step) for event in scene.events if isinstance(event, Evaluated | StepDone)]
    behind = [step for step in (0, 2, 4) if order.index((Evaluated, step)) > order.index((StepDone, step + 1))]
    assert bool(behind) == beside


def test_a_run_that_is_stopped_amid_a_look_beside_it_ends_and_goes_on(tmp_path: Path) -> None:
    stop = Stop()

    class Stopping(Waiting):
        async def score(self, batch: Batch) -> Batch:
            if len(batch[IDS]) == 3 and writer.looked[-1][0] == 2:
                stop.ask("enough")
                await anyio.sleep(600)
            return await super().score(batch)

    options = {"look": Mean(), "beside": True, "evaluate_every": 2, "steps": 5, "holdout": True}
    writer = Slow()
    scene = Scene(tmp_path, writer, stop=stop, scorer=Stopping(), **options).go()
    assert len(scene.of(StepDone)) < 5
    again = Scene(tmp_path, Slow(), resumed=True, **options).go()
    assert again.of(StepDone)[-1].step == 5
    assert again.of(Evaluated)[-1].step == 5


@pytest.mark.parametrize(
    ("tables", "what"),
    [
        ('[holdout]\nuse = "toy"\n[look]\nbeside = true\n', "nothing goes on beside it"),
        ("[look]\n", "the look is at what a generator writes for a [holdout]"),
        ('[holdout]\nuse = "toy"\n[look]\n', "`scores`, and no earlier stage provides it"),
    ],
)
def test_a_look_that_cannot_be_is_refused(tables: str, what: str) -> None:
    parts = "".join(f'[{part}]\nuse = "toy"\n' for part in ("source", "optimizer", "loss"))
    writer = '[model]\nuse = "scratch-lm"\n[generator]\nuse = "scripted"\nlines = ["a"]\n'
    best = '[loop]\nevaluate_every = 2\nbest = {metric = "holdout/score"}\n' if "beside" in tables else ""
    with pytest.raises(UserError) as error:
        recipe(f'{parts}{writer}{tables}use = "pass-at-k"\n{best}', *TOYS)
    assert what in str(error.value)

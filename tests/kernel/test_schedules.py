"""The asynchronous loop under any schedule: the bound holds, every group ends once, nothing waits for ever, a replay is
the same, and two devices are used at a time.

`pytest --hypothesis-profile=many` tries ten thousand schedules instead of a hundred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from truing.attempts import Failures
from truing.errors import RunFailed
from truing.events import Event, GroupDropped, GroupFailed, GroupTrained, StageEnded, StepDone, WaveAdmitted
from truing.fields import COMPLETIONS, SCORES, Batch
from truing.online import online
from truing.run import DeviceThread
from truing.script import Script
from truing.stage import Weights

from . import clock
from .scenes import Grader, Picky, Scene, Writer, ends

LIMIT = 0.4
"""seconds a stage may take"""


@dataclass
class Plan:
    """How long everything takes, in turn, and what goes wrong: `stage:call` to how."""

    delays: list[float]
    faults: dict[str, str] = field(default_factory=dict[str, str])
    calls: dict[str, int] = field(default_factory=dict[str, int])

    async def at(self, stage: str) -> str:
        """Wait for a stage's turn, and say what goes wrong with it."""
        call = self.calls[stage] = self.calls.get(stage, 0) + 1
        await anyio.sleep(self.seconds(stage))
        how = self.faults.get(f"{stage}:{call}", "")
        if how == "raise":
            raise OSError("broken")
        if how == "hang":
            await anyio.sleep(math.inf)
        return how

    def seconds(self, stage: str) -> float:
        self.calls[f"{stage} took"] = turn = self.calls.get(f"{stage} took", len(stage)) + 1
        return self.delays[turn % len(self.delays)]


class Slow(Writer):
    """Writes what tells the weights it was written from."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    async def sync_weights(self, weights: Weights) -> None:
        await self.plan.at("sync")
        await super().sync_weights(weights)

    async def generate(self, batch: Batch) -> Batch:
        version = self.synced[-1]
        how = await self.plan.at("generate")
        written = self.written(batch, version)
        texts = [f"{text} by {version}" for text in written[COMPLETIONS]]
        return written.put(COMPLETIONS, texts[:1] if how == "few" else texts)  # pyright: ignore[reportArgumentType]


class Wavering(Grader):
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    async def score(self, batch: Batch) -> Batch:
        how = await self.plan.at("score")
        scored = await super().score(batch)
        bad = {"nan": [math.nan] * len(scored[COMPLETIONS]), "few": [0.0]}
        return scored.put(SCORES, bad[how]) if how in bad else scored  # pyright: ignore[reportArgumentType]


def go(plan: Plan, script: Script | None = None, device: DeviceThread | None = None, **options: Any) -> Scene:
    """An online run by the scripted clock. It takes no checkpoint, so its folder is never made."""
    scene = Scene(Path("nowhere"), Slow(plan), scorer=Wavering(plan), script=script, **options)
    scene.use(device or clock.Device(plan.seconds))

    async def main() -> None:
        await online(scene.parts, scene.loop, scene.run, scene.folder)

    try:
        _, scene.took = clock.run(main, 600)
    except RunFailed as failed:
        if "was left to learn from" not in str(failed):
            raise
    finally:
        scene.run.bus.close()
    return scene


def most_under_way(events: list[Event]) -> int:
    """The most groups that had been admitted and had not ended at any one time."""
    now = most = 0
    for event in events:
        match event:
            case WaveAdmitted():
                now += len(event.ids)
            case GroupTrained():
                now -= len(event.ids)
            case GroupDropped() | GroupFailed():
                now -= 1
            case _:
                pass
        most = max(most, now)
    return most


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    """Delays, faults, drops, and the size of everything."""
    groups = draw(st.integers(1, 9))
    names = [str(number) for number in range(groups)]
    stages = st.sampled_from(["generate", "score"])
    where = st.builds(lambda stage, call: f"{stage}:{call}", stages, st.integers(1, 12))
    faults = draw(st.dictionaries(where, st.sampled_from(["raise", "hang", "few", "nan"]), max_size=6))
    delays = draw(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.03, 0.1, 0.3]), min_size=1, max_size=7))
    return {
        "plan": Plan(delays, faults),
        "groups": groups,
        "batch": draw(st.integers(1, 4)),
        "staleness": draw(st.integers(0, 3)),
        "advantage": Picky(*draw(st.sets(st.sampled_from(names), max_size=groups - 1))),
        draw(st.sampled_from(["steps", "epochs"])): draw(st.integers(1, 6)),
        "refill": draw(st.integers(0, 3)),
        "failures": Failures(in_a_row=1000, generate_seconds=LIMIT, score_seconds=LIMIT),
    }


@settings(deadline=None)
@given(schedules())
def test_under_any_schedule_the_bound_holds_every_group_ends_once_and_nothing_waits_for_ever(
    options: dict[str, Any],
) -> None:
    plan, staleness, batch, refill = (options[name] for name in ("plan", "staleness", "batch", "refill"))
    scene = go(**options)
    ended = ends(scene.events)
    done, trained = scene.of(StepDone), scene.of(GroupTrained)
    steps: dict[int, list[GroupTrained]] = {event.step: [] for event in done}
    for event in trained:
        steps[event.step].append(event)
    assert all(event.metrics["sample/staleness"] <= staleness for event in done)
    assert most_under_way(scene.events) <= (staleness + 1) * batch
    assert list(steps) == list(range(1, len(done) + 1))
    assert all(1 <= len(waves) <= 1 + refill for waves in steps.values())
    assert [event.wave for event in trained] == sorted({event.wave for event in trained})
    admitted = {event.wave: event.ids for event in scene.of(WaveAdmitted)}
    for event in trained:
        kept = set(event.ids)
        assert event.ids == [name for name in admitted[event.wave] if name in kept]
    assert scene.model.learned == [[name for event in waves for name in event.ids] for waves in steps.values()]
    assert scene.model.learned == packed(scene.events, batch, refill)
    if not plan.faults:
        assert "failed" not in ended.values()
    if "steps" in options and not scene.of(GroupFailed):
        assert len(done) == options["steps"]


def packed(events: list[Event], batch: int, refill: int) -> list[list[str]]:
    """What each step should be made of: waves in their order, until there are enough groups or were enough waves."""
    kept = {event.wave: event.ids for event in events if isinstance(event, GroupTrained)}
    steps: list[list[str]] = []
    now: list[str] = []
    waves = 0
    for event in events:
        if not isinstance(event, WaveAdmitted):
            continue
        assert len(event.ids) <= batch - len(now)
        now, waves = now + kept.get(event.wave, []), waves + 1
        if len(now) == batch or waves > refill:
            steps, now, waves = [*steps, now], [], 0
    return [names for names in [*steps, now] if names]


@settings(deadline=None, max_examples=40)
@given(schedules(), st.lists(st.sampled_from([0.0, 0.002, 0.05, 0.2]), min_size=1, max_size=5))
def test_a_replay_learns_from_the_same_completions_whatever_the_time_is_now(
    options: dict[str, Any], delays: list[float]
) -> None:
    first = go(**options)
    again = go(**{**options, "plan": Plan(delays)}, script=Script(first.events))
    told = [(event.step, event.wave, event.ids, event.digest) for event in first.of(GroupTrained)]
    assert [(event.step, event.wave, event.ids, event.digest) for event in again.of(GroupTrained)] == told
    assert again.model.weight == first.model.weight
    assert ends(again.events) == ends(first.events)
    assert {(event.wave, event.id) for event in again.of(GroupFailed)} == {
        (event.wave, event.id) for event in first.of(GroupFailed)
    }


def paced(script: Script | None = None, **seconds: float) -> Scene:
    """A run whose stages always take the same time; those that are not named take none."""
    plan = Plan([0.0])
    plan.seconds = lambda stage: seconds.get(stage, 0.0)  # pyright: ignore[reportAttributeAccessIssue]
    device = clock.Device(lambda work: seconds.get("learn", 0.0) if work == "_learn" else 0.0)
    return go(plan, script=script, device=device, staleness=2, steps=6, groups=6)


PACES = {
    "a slow generator": {"generate": 1.0},
    "a slow learner": {"learn": 1.0},
}


@pytest.mark.parametrize("first", PACES)
@pytest.mark.parametrize("then", PACES)
def test_another_pace_gives_other_completions_and_a_replay_at_that_pace_the_same(first: str, then: str) -> None:
    def digests(scene: Scene) -> list[str]:
        return [event.digest for event in scene.of(GroupTrained)]

    run = paced(**PACES[first])
    assert (digests(paced(**PACES[then])) == digests(run)) == (first == then)
    assert digests(paced(Script(run.events), **PACES[then])) == digests(run)


@pytest.mark.parametrize(("staleness", "at_least"), [(1, 1.8), (2, 1.8)])
def test_a_generator_and_a_learner_that_cost_the_same_work_side_by_side(staleness: int, at_least: float) -> None:
    def seconds(staleness: int) -> float:
        plan = Plan([0.0])
        plan.seconds = lambda stage: 1.0 if stage == "generate" else 0.0  # pyright: ignore[reportAttributeAccessIssue]
        scene = go(
            plan,
            device=clock.Device(lambda work: 1.0 if work == "_learn" else 0.0),
            steps=24,
            staleness=staleness,
        )
        return scene.took

    assert seconds(0) >= at_least * seconds(staleness)


def test_a_scorer_works_on_one_wave_while_the_generator_writes_the_next() -> None:
    def seconds(staleness: int) -> float:
        plan = Plan([0.0])
        plan.seconds = lambda stage: float(stage in ("generate", "score"))  # pyright: ignore[reportAttributeAccessIssue]
        return go(plan, steps=24, staleness=staleness).took

    assert seconds(0) >= 1.8 * seconds(2)


def test_an_evaluation_after_the_last_step_is_waited_for_and_is_of_the_last_weights() -> None:
    scene = go(Plan([1.0, 0.0]), steps=3, staleness=2, holdout=True, evaluate_every=1)
    sampled = [event for event in scene.of(StageEnded) if event.stage == "generate" and event.wave == 0]
    assert [event.version for event in sampled] == [0, 1, 2, 3]
    ends(scene.events)

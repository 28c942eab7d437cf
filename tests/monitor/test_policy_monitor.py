"""Alarms of a policy that learns from its samples, on streams of events that were made up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.events import Alarm, Evaluated, Event, PhaseStarted, StepDone
from truing.run import Run
from truing.testing import check_imports, check_spec
from truing_monitor.menu_policy import Diversity, PolicyMonitor
from truing_monitor.observer import PolicyObserver

STEPS = 200
USUAL = {
    "score": 0.0,
    "score/gold": 0.0,
    "score/kl": 1.0,
    "sample/length": 20.0,
    "score/diversity": 0.8,
    "score/diversity/distinct": 0.9,
    "score/diversity/repetition": 0.05,
    "score/diversity/entropy": 2.0,
}


def heard(events: Iterable[Event], **options: Any) -> tuple[list[Alarm], Run]:
    alarms: list[Alarm] = []

    async def observe() -> Run:
        bus = Bus()
        run = Run("made-up", Path("nowhere"), 0, bus)
        observer = PolicyObserver(PolicyMonitor(**options), run)
        await observer.open()
        with bus.subscribe(Alarm) as stream:
            for event in events:
                await observer.observe(event)
            await observer.close()
            bus.close()
            alarms.extend([alarm async for alarm in stream])
        return run

    run = anyio.run(observe)
    return alarms, run


def steps(changed: Callable[[int], dict[str, float]], noise: float = 0.05, seed: int = 0) -> list[Event]:
    """A run whose numbers waver about those of `changed` at each step, or the usual ones."""
    chance = random.Random(seed)
    begun: list[Event] = [PhaseStarted(phase="rl", options={}, steps=STEPS)]
    for at in range(1, STEPS + 1):
        numbers = {**USUAL, **changed(at)}
        wavering = {key: value + chance.gauss(0, noise) for key, value in numbers.items()}
        begun.append(StepDone(phase="rl", step=at, steps=STEPS, epoch=0, metrics=wavering))
    return begun


def looks(gold: list[float], score: list[float]) -> list[Event]:
    begun: list[Event] = [PhaseStarted(phase="rl", options={}, steps=STEPS)]
    for at, (good, pleased) in enumerate(zip(gold, score, strict=True)):
        metrics = {"score": pleased, "score/gold": good, "sample/length": 20.0}
        begun.append(Evaluated(phase="rl", step=10 * at, metrics=metrics))
    return begun


def names(events: Iterable[Event], **options: Any) -> list[str]:
    return [alarm.name for alarm in heard(events, **options)[0]]


def test_the_specs_keep_their_promises() -> None:
    check_imports("truing_monitor.plugin")
    check_spec(PolicyMonitor)
    check_spec(Diversity)


def up_and_down(at: int) -> float:
    """Gold that rises to 1 at step 100 and then falls."""
    return 1 - abs(at - 100) / 100


def test_gold_that_falls_while_the_score_rises_is_overoptimization() -> None:
    (alarm, *more), _ = heard(steps(lambda at: {"score": at / 50, "score/gold": up_and_down(at)}))
    assert (alarm.name, more) == ("overoptimization", [])
    assert 110 < alarm.step < 140
    assert alarm.values["score/gold/first"] > alarm.values["score/gold"]
    assert alarm.values["score"] > alarm.values["score/then"]
    assert "what is learned from is no longer what was meant" in alarm.text


def test_gold_that_falls_with_the_score_is_something_else() -> None:
    assert names(steps(lambda at: {"score": up_and_down(at), "score/gold": up_and_down(at)})) == []


def test_gold_that_rises_with_the_score_is_fine() -> None:
    assert names(steps(lambda at: {"score": at / 50, "score/gold": at / 100})) == []


def test_a_gold_of_another_name_is_watched_if_it_is_named() -> None:
    events = steps(lambda at: {"score": at / 50, "score/judge": up_and_down(at)})
    assert names(events) == []
    assert names(events, gold="judge") == ["overoptimization"]


def test_looks_at_the_holdout_are_enough_where_gold_is_asked_there_alone() -> None:
    gold = [0.0, 0.11, 0.2, 0.31, 0.4, -1.0, -2.0, -2.1]
    (alarm,), _ = heard(looks(gold, [float(at) for at in range(8)]))
    assert (alarm.name, alarm.step) == ("overoptimization", 60)
    assert "held out, gold fell from 0.4 at step 40 to -1" in alarm.text


def test_looks_that_waver_as_they_always_did_raise_nothing() -> None:
    chance = random.Random(1)
    for _ in range(50):
        gold = [0.1 * at + chance.gauss(0, 0.3) for at in range(12)]
        assert names(looks(gold, [float(at) for at in range(12)])) == []


@pytest.mark.parametrize("to", [5.0, 45.0])
def test_completions_that_become_much_shorter_or_longer_are_told(to: float) -> None:
    assert names(steps(lambda at: {"sample/length": 20 + (to - 20) * at / STEPS})) == ["length-drift"]
    assert names(steps(lambda at: {"sample/length": 20 + 5 * at / STEPS})) == []


def test_repetition_and_a_collapse_of_diversity_are_told_by_any_of_their_signs() -> None:
    assert names(steps(lambda at: {"score/diversity/repetition": 0.05 + at / 300})) == ["repetition"]
    for key in ("score/diversity", "score/diversity/distinct", "score/diversity/entropy"):
        found = names(steps(lambda at, key=key: {key: USUAL[key] * (1 - at / STEPS)}))
        assert found == ["diversity-collapse"], key


def test_a_budget_of_divergence_is_kept_if_there_is_one() -> None:
    events = steps(lambda at: {"score/kl": at / 10})
    assert names(events) == []
    (alarm,), run = heard(events, kl_budget=10.0, stop_on=["kl-budget"])
    assert alarm.name == "kl-budget"
    assert 100 <= alarm.step <= 105
    assert "kl-budget" in run.stop.reason


def test_numbers_that_only_waver_raise_nothing() -> None:
    for seed in range(20):
        assert names(steps(lambda _: {}, noise=0.5, seed=seed)) == []


def test_a_phase_that_samples_nothing_is_left_alone() -> None:
    begun: list[Event] = [PhaseStarted(phase="sft", options={}, steps=STEPS)]
    begun += [StepDone(phase="sft", step=at, steps=STEPS, epoch=0, metrics={"score": -at}) for at in range(50)]
    assert names(begun) == []

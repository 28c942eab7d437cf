"""Alarms rise when the numbers of a phase look wrong, and only then: on streams of events that were made up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.events import Alarm, DataOpened, Evaluated, Event, PhaseStarted, StepDone
from truing.journal import Journal
from truing.run import Run
from truing.testing import TOY_RECIPE, TOYS, check_imports, check_spec, recipe, run_recipe
from truing_monitor.observer import PreferenceObserver
from truing_monitor.plugin import PreferenceMonitor

STEPS = 200
"""of which 20 are smoothed over"""


def step(number: int, phase: str = "dpo", **metrics: float) -> StepDone:
    return StepDone(phase=phase, step=number, steps=STEPS, epoch=0, metrics=named(metrics))


def look(number: int, phase: str = "dpo", **metrics: float) -> Evaluated:
    return Evaluated(phase=phase, step=number, metrics=named(metrics))


def named(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics of a preference loss that is well, but for these. Their names are written with _ for /."""
    usual = {"loss": 0.5, "accuracy": 0.7, "margin": 0.0, "logprob/chosen": -100.0, "logprob/rejected": -100.0}
    return {**usual, **{key.replace("_", "/", 1) if key != "gradient_norm" else key: v for key, v in metrics.items()}}


def phase(happened: Iterable[Event], name: str = "dpo", start: int = 0, held: int = 400) -> list[Event]:
    holdout = DataOpened(phase=name, role="holdout", name="h", digest="", groups=held, skipped=0, origin="h")
    return [PhaseStarted(phase=name, options={}, steps=STEPS, start=start), holdout, *happened]


def play(happened: Sequence[Event], folder: Path = Path("nowhere"), resumed: bool = False, **options: Any) -> Heard:
    heard: list[Alarm] = []

    async def observe() -> Run:
        bus = Bus()
        run = Run("tiny", folder, 0, bus, resumed=resumed)
        observer = PreferenceObserver(PreferenceMonitor(**options), run)
        await observer.open()
        with bus.subscribe(Alarm) as alarms:
            for event in happened:
                await observer.observe(event)
            await observer.close()
            bus.close()
            heard.extend([alarm async for alarm in alarms])
        return run

    return Heard(anyio.run(observe), heard)


class Heard:
    """What was raised, and what became of the run."""

    def __init__(self, run: Run, alarms: list[Alarm]) -> None:
        self.run = run
        self.alarms = alarms

    @property
    def raised(self) -> list[tuple[str, int]]:
        return [(alarm.name, alarm.step) for alarm in self.alarms]


def test_the_spec_keeps_its_promises() -> None:
    check_imports("truing_monitor.plugin")
    check_spec(PreferenceMonitor)


# --- each alarm, exactly when it should -------------------------------------------------------------------------------


def test_held_out_displacement_is_raised_at_the_look_where_a_tenth_is_lost() -> None:
    looks = [look(10 * at, logprob_chosen=-100.0 - 2.5 * at, margin=0.1 * at) for at in range(10)]
    heard = play(phase(looks))
    assert heard.raised == [("displacement", 40)]
    (alarm,) = heard.alarms
    assert alarm.phase == "dpo"
    assert alarm.values == {
        "logprob/chosen/first": -100.0,
        "logprob/chosen": -110.0,
        "margin/first": 0.0,
        "margin": 0.4,
    }
    assert "held out, the log-probability of the chosen answers fell from -100 to -110" in alarm.text


def test_a_fall_without_a_growing_margin_is_no_displacement() -> None:
    looks = [look(10 * at, logprob_chosen=-100.0 - 5 * at, margin=-0.1 * at) for at in range(6)]
    assert play(phase(looks)).raised == []


def test_a_margin_that_grows_while_chosen_answers_stay_is_fine() -> None:
    looks = [look(10 * at, logprob_rejected=-100.0 - 20 * at, margin=float(at)) for at in range(10)]
    assert play(phase(looks)).raised == []


def test_displacement_in_training_is_raised_when_the_means_of_twenty_steps_are_apart() -> None:
    steps = [step(at, logprob_chosen=-100.0 if at <= 40 else -130.0, margin=at / 100) for at in range(1, 101)]
    # Seven low ones of the last twenty make a tenth; twelve are needed until it is 5 standard errors.
    assert play(phase(steps)).raised == [("displacement", 52)]


def test_collapse_is_raised_when_both_sides_lose_half() -> None:
    def looks(rejected: float) -> list[Event]:
        return [
            look(10 * at, logprob_chosen=-100.0 - 10 * at, logprob_rejected=-100.0 - rejected * at, margin=-1.0 * at)
            for at in range(9)
        ]

    assert play(phase(looks(20))).raised == [("collapse", 50)]
    assert play(phase(looks(2))).raised == []


def test_length_bias_is_raised_when_held_out_rewards_have_come_to_go_with_length() -> None:
    looks = [look(0), *(look(10 * at, length_correlation=0.1 * at) for at in range(1, 9))]
    heard = play(phase(looks))
    assert heard.raised == [("length-bias", 50)]
    assert "from 0.00 to 0.50: longer answers" in heard.alarms[0].text
    shorter = [look(0), *(look(10 * at, length_correlation=-0.1 * at) for at in range(1, 9))]
    assert "shorter answers" in play(phase(shorter)).alarms[0].text


def test_rewards_that_went_with_length_before_training_are_no_alarm_until_they_do_so_more() -> None:
    assert play(phase([look(10 * at, length_correlation=-0.95) for at in range(9)])).raised == []
    assert play(phase([look(10 * at, length_correlation=0.55 + 0.021 * at) for at in range(9)])).raised == [
        ("length-bias", 50)
    ]


def test_of_few_held_out_groups_a_correlation_must_be_larger() -> None:
    looks = [look(0), look(10, length_correlation=0.7), look(20, length_correlation=0.8)]
    assert play(phase(looks, held=16)).raised == [("length-bias", 20)]


def test_overfitting_is_raised_when_held_out_accuracy_falls_while_that_of_training_rises() -> None:
    def run(of_training: Callable[[int], float], held: int = 1600) -> list[tuple[str, int]]:
        happened: list[Event] = []
        for at in range(1, STEPS + 1):
            happened.append(step(at, accuracy=of_training(at)))
            if at % 25 == 0:
                happened.append(look(at, accuracy=0.7 - abs(at - 75) / 1000))
        return play(phase(happened, held=held)).raised

    assert run(lambda at: 0.6 + at / 1000) == [("overfitting", 125)]
    assert run(lambda at: 0.9 - at / 1000) == []
    assert run(lambda at: 0.6 + at / 1000, held=100) == [], "one fifth is chance among 100 groups"


def test_a_gradient_ten_times_the_usual_is_a_spike() -> None:
    norms = [1.0 + at % 3 / 10 for at in range(60)]
    norms[40] = 11.5
    heard = play(phase([step(at + 1, gradient_norm=norm) for at, norm in enumerate(norms)]))
    assert heard.raised == [("gradient-spike", 41)]
    assert heard.alarms[0].values == {"gradient_norm": 11.5, "gradient_norm/usual": pytest.approx(1.1)}


def test_thresholds_are_options() -> None:
    looks = [look(10 * at, logprob_chosen=-100.0 - 2.5 * at, margin=0.1 * at) for at in range(10)]
    assert play(phase(looks), displacement=0.2).raised == [("displacement", 80)]


# --- once, and again only after it was well ---------------------------------------------------------------------------


def swinging(levels: Sequence[float]) -> list[Event]:
    """Looks every ten steps at a chosen log-probability that has fallen by these shares."""
    return [look(10 * at, logprob_chosen=-100 * (1 + level), margin=at / 10) for at, level in enumerate(levels)]


def test_numbers_that_waver_about_a_threshold_raise_one_alarm() -> None:
    assert play(phase(swinging([0, *[0.11, 0.09, 0.06] * 20]))).raised == [("displacement", 10)]


def test_numbers_that_were_well_for_a_while_raise_it_again() -> None:
    assert play(phase(swinging([0, 0.2, 0.01, 0.01, 0.01, 0.01, 0.2, 0.2]))).raised == [
        ("displacement", 10),
        ("displacement", 60),
    ]
    assert play(phase(swinging([0, 0.2, 0.01, 0.2, 0.01, 0.2]))).raised == [("displacement", 10)], "not long enough"


def test_phases_are_watched_each_for_itself() -> None:
    def looks(name: str) -> list[Event]:
        return [look(10 * at, name, logprob_chosen=-100.0 - 10 * at, margin=float(at)) for at in range(3)]

    heard = play([*phase(looks("one"), "one"), *phase(looks("two"), "two")])
    assert [(alarm.phase, alarm.step) for alarm in heard.alarms] == [("one", 10), ("two", 10)]


def test_a_phase_without_a_margin_is_left_alone() -> None:
    steps = [
        StepDone(phase="sft", step=at, steps=9, epoch=0, metrics={"loss": 1.0, "gradient_norm": 100.0**at})
        for at in range(1, 20)
    ]
    assert play([PhaseStarted(phase="sft", options={}, steps=20), *steps]).raised == []


def test_what_is_not_a_number_is_passed_over() -> None:
    looks = [
        look(10 * at, logprob_chosen=float("nan") if at == 2 else -100.0 - 5 * at, margin=1.0 * at) for at in range(5)
    ]
    assert play(phase(looks)).raised == [("displacement", 30)]


# --- not on noise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scatter", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(10))
def test_batches_that_differ_by_chance_raise_nothing(seed: int, scatter: float) -> None:
    chance = random.Random(seed)
    steps = [
        step(
            at,
            logprob_chosen=-100 * chance.lognormvariate(0, scatter),
            logprob_rejected=-100 * chance.lognormvariate(0, scatter),
            margin=chance.gauss(0, 1),
            accuracy=sum(chance.random() < 0.6 for _ in range(8)) / 8,
            length_correlation=chance.uniform(-1, 1),
            gradient_norm=chance.lognormvariate(0, 0.3),
        )
        for at in range(1, STEPS + 1)
    ]
    assert play(phase(steps)).raised == []


@pytest.mark.parametrize("held", [16, 64, 400])
@pytest.mark.parametrize("seed", range(10))
def test_a_holdout_on_which_nothing_is_learned_raises_nothing(seed: int, held: int) -> None:
    chance = random.Random(seed)
    right = [chance.random() < 0.5 for _ in range(held)]
    happened: list[Event] = []
    for at in range(STEPS + 1):
        happened += [step(at, accuracy=0.5)] if at else []
        if at % 25 == 0:  # one pair in five is judged anew, and rewards go with the length of two answers a pair
            right = [chance.random() < 0.5 if chance.random() < 0.2 else old for old in right]
            goes = chance.gauss(0, 1 / (2 * held) ** 0.5)
            happened.append(look(at, accuracy=sum(right) / held, length_correlation=goes))
    assert play(phase(happened, held=held)).raised == []


@given(st.integers(0, 10_000), st.floats(0.15, 1.0), st.floats(0.0, 0.1))
@settings(deadline=None, max_examples=40)
def test_a_fall_that_is_there_is_seen_through_the_noise(seed: int, fall: float, scatter: float) -> None:
    chance = random.Random(seed)
    steps = [
        step(
            at,
            logprob_chosen=-100 * (1 + fall * at / STEPS) * (1 + chance.gauss(0, scatter)),
            margin=at / STEPS + chance.gauss(0, 0.05),
        )
        for at in range(1, STEPS + 1)
    ]
    expected = fall * 0.9 > 0.11 and fall * 0.9 > 6 * 2 * scatter / 20**0.5
    raised = [name for name, _ in play(phase(steps)).raised]
    assert "displacement" in raised or not expected


@given(st.lists(st.floats(0.0, 0.3), min_size=2, max_size=30))
@settings(deadline=None)
def test_no_alarm_is_raised_twice_within_a_window(levels: list[float]) -> None:
    at = [number for name, number in play(phase(swinging([0.0, *levels]))).raised if name == "displacement"]
    assert all(later - earlier > 20 for earlier, later in pairwise(at))


# --- stopping, resuming, failing --------------------------------------------------------------------------------------

FALLING = swinging([0, 0.2, 0.3])


def test_an_alarm_that_is_to_stop_the_run_asks_it_to_and_says_why() -> None:
    heard = play(phase(FALLING), stop_on=["displacement"])
    assert heard.run.stop
    assert heard.run.stop.reason.startswith("alarm displacement at step 10: held out, the log-probability")
    assert not play(phase(FALLING)).run.stop
    assert not play(phase(FALLING), stop_on=["collapse"]).run.stop


def kept(folder: Path, happened: Sequence[Event]) -> None:
    bus = Bus(keep=Journal(folder).record)
    for event in happened:
        bus.publish(event)


def test_a_resumed_run_raises_nothing_that_it_raised_before(tmp_path: Path) -> None:
    kept(tmp_path, phase(FALLING))
    again = phase(swinging([0, 0.2, 0.3, 0.4])[2:], start=15)
    assert play(again, tmp_path, resumed=True).raised == []


def test_a_resumed_run_remembers_where_its_numbers_began(tmp_path: Path) -> None:
    kept(tmp_path, phase(swinging([0, 0.01, 0.05])))
    again = phase(swinging([0, 0.01, 0.05, 0.12])[2:], start=15)
    assert play(again, tmp_path, resumed=True).raised == [("displacement", 30)]
    assert play(again).raised == []


def test_an_alarm_is_kept_with_the_run_and_read_again(tmp_path: Path) -> None:
    alarm = play(phase(FALLING)).alarms[0]
    kept(tmp_path, [alarm])
    ((_, read),) = Journal(tmp_path).events()
    assert isinstance(read, Alarm)
    assert (read.name, read.text, read.values) == (alarm.name, alarm.text, alarm.values)


def test_a_run_watched_by_it_goes_on_as_ever(tmp_path: Path) -> None:
    watched = TOY_RECIPE.replace("[source]", '[[observer]]\nuse = "preference-monitor"\n\n[source]', 1)
    ran = run_recipe(recipe(watched, *TOYS), tmp_path)
    assert ran.status == "finished"
    assert not any(isinstance(event, Alarm) for event in ran.events)

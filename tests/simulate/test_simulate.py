"""The loop on a clock of its own: what must come out by hand, what a real loop takes, and the command."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.kernel.scenes import Grader, Scene, Writer, ends

pytest.importorskip("numpy", reason="numpy is not installed: pip install -e '.[evaluate]'")

from truing.cli import main
from truing.events import StepDone, encode
from truing.fields import Batch
from truing.loop import Parts
from truing.online import online
from truing.plugins import discover
from truing.recipe import Loop
from truing_simulate import clock
from truing_simulate.course import Course, course_of
from truing_simulate.lengths import Lengths
from truing_simulate.measured import Measured, Shares, from_events, measured, pace_of
from truing_simulate.pace import Pace, Places
from truing_simulate.playing import Player
from truing_simulate.splits import best, searched, simulated

ROOT = Path(__file__).parents[2]
APART, IN_TURNS = Places(1, 1, False), Places(1, 1, True)


def pace(generate: float, learn: float, score: float = 0.5, publish: float = 0.25, **more: Any) -> Pace:
    """Of waves of two prompts and four completions of a hundred tokens, each."""
    return Pace(Lengths(math.log(100), 0.0, 100), generate / 100, 0.0, score / 8, learn, 0.0, publish, **more)


def played(pace: Pace, places: Places, staleness: int = 0, **more: Any) -> Course:
    player = Player(Loop(batch=2, staleness=staleness, **more), 4, pace)
    return course_of(player(places, 20).events, staleness, places.shared)


@pytest.mark.parametrize(
    ("generate", "learn", "places", "staleness", "step"),
    [
        pytest.param(3, 1, APART, 0, 3 + 0.5 + 1 + 0.25, id="all in turns"),
        pytest.param(3, 1, APART, 1, 3, id="the generator never rests"),
        pytest.param(1, 3, APART, 1, 3 + 0.25, id="the learner never rests, but for new weights"),
        pytest.param(3, 1, IN_TURNS, 1, 3 + 1 + 0.25, id="one device, scored beside learning"),
    ],
)
def test_a_step_takes_what_its_longest_way_does(
    generate: float, learn: float, places: Places, staleness: int, step: float
) -> None:
    course = played(pace(generate, learn), places, staleness)
    assert course.step_seconds == pytest.approx(step)
    assert course.ages == {staleness: 1.0}
    assert course.busy == pytest.approx(
        {"generate": generate / step, "score": 0.5 / step, "learn": learn / step, "publish": 0.25 / step}
    )
    assert course.tokens_per_second == pytest.approx(800 / step)


def test_what_goes_on_at_once_takes_longer_while_it_does() -> None:
    course = played(pace(3, 1, slowed={"generate": 1.5, "learn": 1.2}), APART, 1)
    # Learning is beside sampling all the time, and takes 1.2 s; of these sampling gets on by 0.8 s.
    assert course.step_seconds == pytest.approx(3 + 1.2 * (1 - 1 / 1.5))
    assert course.busy["learn"] == pytest.approx(1.2 / 3.4)
    assert played(pace(3, 1, slowed={"generate": 1.5, "learn": 1.2}), IN_TURNS, 1).step_seconds == pytest.approx(4.25)


def test_a_run_at_once_and_two_in_turns_tell_how_much_stages_slow_each_other_down() -> None:
    true = Pace(Lengths(4.0, 0.0, 64), 0.004, 0.0005, 0.0, 0.2, 0.0008, 0.01, slowed={"generate": 1.4, "learn": 1.2})

    def run(batch: int, staleness: int, places: Places) -> tuple[Course, Measured]:
        played = Player(Loop(batch=batch, staleness=staleness), 4, true)(places, 24)
        options = {"loop.batch": batch, "generator.samples": 4, "generator.max_new_tokens": 64, "generator.seats": 64}
        found = replace(from_events("here", played.events, options, places.shared), length=true.lengths.mean())
        return course_of(played.events, staleness, places.shared), found

    known = [run(batch, staleness, places)[1] for batch, staleness, places in ((2, 0, IN_TURNS), (8, 0, IN_TURNS))]
    found = pace_of([*known, run(2, 1, APART)[1]], Shares(), 64)
    assert found.slowed == pytest.approx(true.slowed, rel=0.01)
    for batch, staleness in ((8, 1), (4, 3)):
        was, _ = run(batch, staleness, APART)
        said = Player(Loop(batch=batch, staleness=staleness), 4, found)(APART._replace(seats=64), 24).events
        assert course_of(said, staleness, False).step_seconds == pytest.approx(was.step_seconds, rel=0.02)
    # By itself what was measured at once has it in it that it was.
    assert not pace_of([run(2, 1, APART)[1]], Shares(), 64).slowed


def test_what_is_ready_before_the_learner_is_waits_for_it() -> None:
    waits = played(pace(1, 3), APART, 1).waiting["for the learner"]
    assert waits.most == 1
    # Of 3.25 s, sampling and scoring take 1.5.
    assert waits.mean == pytest.approx((3.25 - 1.5) / 3.25)


def test_every_group_of_a_simulation_ends_once_and_lost_ones_are_filled_up() -> None:
    player = Player(Loop(batch=4, staleness=1, refill=9), 4, pace(3, 1, dropped=0.5))
    events = player(APART, 12).events
    kept = list(ends(events).values())
    assert 0.3 < kept.count("dropped") / len(kept) < 0.7
    assert {event.metrics["tokens"] for event in events if isinstance(event, StepDone)} == {4 * 4 * 100}


def test_a_seed_gives_the_same_simulation_to_the_last_event_and_another_gives_another() -> None:
    uneven = replace(pace(3, 1), lengths=Lengths(4.0, 0.8, 512), noise={"learn": [0.8, 1.0, 1.2]})

    def told(seed: int) -> list[bytes]:
        events = Player(Loop(batch=2, staleness=2), 4, uneven, seed)(APART, 10).events
        return [encode(event) for event in events if type(event).__name__ == "StageEnded"]

    assert told(1) == told(1) != told(2)


def test_the_best_split_that_is_found_is_the_best_there_is() -> None:
    player = Player(Loop(batch=24, staleness=1), 4, Pace(Lengths(4.6, 0.5, 400), 0.002, 0.0004, 0.0, 0.1, 0.0004, 0.05))
    tried = searched(player, APART, 24, 12)
    assert tried[-1].in_turns
    divided = [split for split in tried if not split.in_turns]
    everything = [simulated(player, APART._replace(generate=some, learn=24 - some), 12) for some in range(1, 24)]
    assert len(divided) < len(everything)
    assert best(divided).course.step_seconds <= 1.02 * best(everything).course.step_seconds


class Sleeper(Writer):
    async def generate(self, batch: Batch) -> Batch:
        version = self.synced[-1]
        await anyio.sleep(0.16)
        return self.written(batch, version)


class Reader(Grader):
    async def score(self, batch: Batch) -> Batch:
        await anyio.sleep(0.03)
        return await super().score(batch)


def real(folder: Path, staleness: int) -> Course:
    """A loop of stages that sleep, its journal kept. It lives by a clock that jumps: another would be the machine's,
    whoever else is at work there."""
    scene = Scene(folder, Sleeper(), scorer=Reader(), steps=12, staleness=staleness)

    async def takes(work: str, *_: object) -> None:
        if work == "_learn":
            await anyio.sleep(0.08)

    async def whole() -> None:
        await online(scene.parts, scene.loop, scene.run, scene.folder)
        scene.run.bus.close()

    scene.use(clock.Device(takes))
    options = {"generator.use": "asleep", "generator.samples": 2, "generator.max_new_tokens": 3, "loop.batch": 2}
    scene.parts = Parts(**{**vars(scene.parts), "options": options})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", anyio.current_time)
        clock.run(whole)
    folder.joinpath("events.jsonl").write_bytes(b"".join(encode(event) + b"\n" for event in scene.events))
    return course_of(scene.events, staleness, False)


def test_a_run_that_samples_ahead_takes_what_was_said_of_it_from_one_that_does_not(tmp_path: Path) -> None:
    in_turns = real(tmp_path, 0)
    known = pace_of([measured(tmp_path, "phase", {})], Shares(), 3)
    player = Player(Loop(batch=2, staleness=0), 2, known)
    said = course_of(player(APART, 12).events, 0, False)
    assert said.step_seconds == pytest.approx(in_turns.step_seconds, rel=0.03)
    ahead = tmp_path / "ahead"
    ahead.mkdir()
    for staleness in (1, 2):
        was = real(ahead, staleness)
        told = course_of(replace(player, loop=Loop(batch=2, staleness=staleness))(APART, 12).events, staleness, False)
        assert told.step_seconds == pytest.approx(was.step_seconds, rel=0.03)
        assert told.step_seconds < 0.75 * said.step_seconds
        assert told.age == pytest.approx(was.age, abs=0.1)
        assert told.busy["learn"] == pytest.approx(was.busy["learn"], abs=0.05)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(ROOT / "recipes" / "grpo.toml"), *arguments])
    said = capsys.readouterr()
    assert isinstance(end.value.code, int | None)
    return end.value.code or 0, said.out, said.err


FEW = ("--set", "phase.rl.loop.batch=2")


def test_the_command_tells_a_program_every_division_and_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    times = ("--seconds", "generate=40", "--seconds", "learn=20", "--steps", "6", "--length", "10")
    status, out, _ = call(capsys, *times, "--gpus", "4", "--set", "phase.rl.loop.staleness=1", "--json")
    assert status == 0
    told = json.loads(out)
    assert [(split["generate"], split["learn"]) for split in told["splits"]] == [(1, 3), (2, 2), (3, 1), (4, 4)]
    assert told["best"] == min(told["splits"], key=lambda split: split["course"]["step_seconds"])
    status, out, _ = call(capsys, *times, "--gpus", "4", "--generate", "3")
    assert "3 generate, 1 learn" in out
    assert "no more copies" not in out
    assert "a wave has 2 prompts, so no more copies" in call(capsys, *times, "--gpus", "4", "--generate", "3", *FEW)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "learn=1"], "nobody says how long it takes to generate"),
        (["--seconds", "learn=soon"], "write STAGE=SECONDS"),
        (["--from", "nowhere"], "this is no run folder"),
        (["--seconds", "generate=1", "--seconds", "learn=1", "--length", "99"], "at most 16 tokens"),
        (["--phase", "sft"], "one of its phases is to be named: 'rl'"),
        (["--seconds", "generate=1", "--seconds", "learn=1", "--gpus", "2", "--generate", "2"], "leave none"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, *arguments)
    assert status == 2
    assert said in err


def test_generators_say_whether_they_sample_on_the_device_that_learns() -> None:
    shelf = discover().registry.shelf("generator")
    assert {name for name, spec in shelf.items() if getattr(spec, "shares_device", False)} == {"engine"}

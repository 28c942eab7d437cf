"""What `truing simulate` says of runs before they are made, and what they come to then.

Two small runs of different sizes tell the pace of this machine; others differ from the smaller one in one thing. A
model of a million fresh weights, so most completions are as long as they may be. Times are those of this machine as it
is, so keep it quiet. A table is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from truing.plugins import discover
from truing.testing import recipe, run_recipe

pytest.importorskip("torch")

import torch

from truing_simulate.course import Course, course_of
from truing_simulate.measured import Measured, Shares, measured, pace_of
from truing_simulate.pace import Places
from truing_simulate.playing import Player

STEPS = 30
TEXT = """
name = "simulated"

[source]
use = "reasoning-gym"
tasks = ["basic_arithmetic"]
size = 512

[model]
use = "scratch-lm"
width = 128
layers = 4
heads = 4
dtype = "fp32"
device = "cpu"

[optimizer]
use = "adamw"

[loss]
use = "grpo"

[generator]
{generator}
samples = 8
max_new_tokens = 48
dtype = "fp32"
device = "cpu"

[scorer]
use = "match"
close = true

[advantage]
use = "group-relative"

[loop]
batch = {batch}
steps = {steps}
staleness = {staleness}
"""
HERE = 'use = "engine"'
APART = 'use = "process"\nthreads = 1\n[generator.generator]\nuse = "engine"'


class Kind(NamedTuple):
    """A run. shared: one device samples and learns. learned_from: whether the pace is taken from it."""

    name: str
    generator: str
    batch: int
    staleness: int
    shared: bool
    learned_from: bool = False


KINDS = (
    Kind("in turns", HERE, 4, 0, True, True),
    Kind("in turns, three times the prompts", HERE, 12, 0, True, True),
    Kind("in turns, twice the prompts", HERE, 8, 0, True),
    Kind("ahead, in one process", HERE, 4, 1, True),
    Kind("ahead, in two processes", APART, 4, 1, False),
    Kind("far ahead, in two processes", APART, 4, 3, False),
)


class Made(NamedTuple):
    kind: Kind
    told: Measured
    course: Course


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Made]:
    generators = discover().registry.shelf("generator")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: list[Made] = []
    for kind in KINDS:
        text = TEXT.format(steps=STEPS, **kind._asdict())
        run = run_recipe(recipe(text), tmp_path_factory.mktemp("runs"))
        course = course_of(run.events, kind.staleness, kind.shared)
        found.append(Made(kind, measured(Path(run.folder), "", generators), course))
    torch.set_num_threads(threads)
    return found


def predicted(kind: Kind, pace_from: Sequence[Measured]) -> Course:
    """What a run is to come to."""
    from truing.recipe import Loop

    player = Player(Loop(batch=kind.batch, staleness=kind.staleness), 8, pace_of(pace_from, Shares(), 48))
    places = Places(1, 1, kind.shared, seats=64)
    return course_of(player(places, STEPS).events, kind.staleness, kind.shared)


def test_runs_take_as_long_as_was_said_and_learn_from_what_is_as_old(made: Sequence[Made]) -> None:
    known = [one.told for one in made if one.kind.learned_from]
    off: dict[str, float] = {}
    print(f"\n{'run':<36}{'said':>8}{'took':>8}{'off':>7}   age said, was   learner busy said, was")
    for kind, _, was in made:
        said = predicted(kind, known)
        off[kind.name] = said.step_seconds / was.step_seconds - 1
        busy = f"{said.busy['learn']:.0%}, {was.busy['learn']:.0%}"
        print(
            f"{kind.name:<36}{said.step_seconds:>8.3f}{was.step_seconds:>8.3f}{off[kind.name]:>+7.0%}   "
            f"{said.age:.2f}, {was.age:.2f}       {busy}"
        )
        assert said.age == pytest.approx(was.age, abs=0.15)
    assert max(map(abs, off.values())) < 0.25

"""What `truing simulate` says of runs before they are made, and what they come to then.

Each run is said twice: from what its own stages took, which tries the loop alone; and from three runs of other sizes,
two in turns and one in two processes, which tries how time is scaled and how stages slow each other down. The second is
only printed: a busy machine keeps no promise of it. A model of a million fresh weights, so most completions are as long
as they may be. A table is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from truing.plugins import discover
from truing.recipe import Loop
from truing.testing import recipe, run_recipe

pytest.importorskip("torch")

import torch

from truing_simulate.course import Course, course_of
from truing_simulate.measured import Measured, Shares, measured, pace_of
from truing_simulate.pace import Places
from truing_simulate.playing import Player

STEPS, TOKENS, ROUNDS = 16, 32, 3
PLAYED = 8 * (STEPS - 2) + 2
"""so many that all of what varied in a run is met equally often, and not what its few counted steps begin with"""
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
max_new_tokens = {tokens}
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
    Kind("in turns, 2 prompts", HERE, 2, 0, True, True),
    Kind("in turns, 6 prompts", HERE, 6, 0, True, True),
    Kind("in two processes, 2 prompts", APART, 2, 1, False, True),
    Kind("in turns, 4 prompts", HERE, 4, 0, True),
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
    found: dict[str, list[Made]] = {kind.name: [] for kind in KINDS}
    # Others at work only ever add time, and seldom in all rounds.
    for kind in KINDS * ROUNDS:
        text = TEXT.format(steps=STEPS, tokens=TOKENS, **kind._asdict())
        run = run_recipe(recipe(text), tmp_path_factory.mktemp("runs"))
        course = course_of(run.events, kind.staleness, kind.shared)
        found[kind.name].append(Made(kind, measured(Path(run.folder), "", generators), course))
    torch.set_num_threads(threads)
    return [min(some, key=lambda made: made.course.step_seconds) for some in found.values()]


def predicted(kind: Kind, pace_from: Sequence[Measured]) -> Course:
    """What a run is to come to."""
    player = Player(Loop(batch=kind.batch, staleness=kind.staleness), 8, pace_of(pace_from, Shares(), TOKENS))
    places = Places(1, 1, kind.shared, seats=64)
    return course_of(player(places, PLAYED).events, kind.staleness, kind.shared)


def test_runs_take_as_long_as_was_said_and_learn_from_what_is_as_old(made: Sequence[Made]) -> None:
    known = [one.told for one in made if one.kind.learned_from]
    print(f"\n{'run':<30}{'took':>8}   from its own stages    from three others          age was, said    learner busy")
    for kind, told, was in made:
        own, said = predicted(kind, [told]), predicted(kind, known)
        off, far = (one.step_seconds / was.step_seconds - 1 for one in (own, said))
        print(
            f"{kind.name:<30}{was.step_seconds:>8.3f}{own.step_seconds:>12.3f} ({off:+.0%})"
            f"{said.step_seconds:>18.3f} ({far:+.0%}){was.age:>14.2f}, {own.age:.2f}"
            f"{was.busy['learn']:>12.0%}, {own.busy['learn']:.0%}"
        )
        assert abs(off) < 0.15
        assert own.age == pytest.approx(was.age, abs=0.3)
        assert own.busy["learn"] == pytest.approx(was.busy["learn"], abs=0.1)

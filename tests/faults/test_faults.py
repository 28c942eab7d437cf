"""Faults that a recipe asks for: they come as drawn, they are told apart from answers, and no group is lost without a
word."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.generate.fake import FakeServer
from tests.kernel.scenes import ends

from truing.bus import Bus
from truing.errors import RunFailed, UserError
from truing.events import GroupFailed, Notice, StepDone
from truing.fields import SEEDS, Batch
from truing.journal import Journal
from truing.run import Run
from truing.stage import Reply, Said, Task
from truing.testing import Ran, check_imports, check_spec, recipe, run_recipe
from truing_environment.plugin import Calculator
from truing_faults.chance import KEPT, Chance
from truing_faults.menu_places import FaultyDisk, FaultyServer
from truing_faults.menu_stages import FaultyEnvironment, FaultyGenerator, FaultyObserver, FaultyScorer, FaultySource
from truing_generate.plugin import OpenAi, Scripted

pytest.importorskip("torch")

from tests.generate.conftest import asked
from tests.generate.samplers import by_completion

TOY = """
name = "faulty"
[source]
use = "faulty"
{source}
[source.source]
use = "reasoning-gym"
tasks = ["basic_arithmetic"]
size = 12
[generator]
use = "faulty"
{generator}
[generator.generator]
use = "scripted"
samples = 2
lines = ["1", "23"]
[scorer]
use = "faulty"
{scorer}
[scorer.scorer]
use = "match"
close = true
[advantage]
use = "group-relative"
[model]
use = "scratch-lm"
[optimizer]
use = "adamw"
[loss]
use = "grpo"
[loop]
batch = 3
steps = 5
checkpoint_every = 1
failures = {{ share = 1.0, in_a_row = 100, generate_seconds = 0.5, score_seconds = 0.5, read_seconds = 0.5 }}
{more}
"""
"""Scripted completions, so that a run takes a second."""


def ran(folder: Path, *, resumed: bool = False, **options: str) -> Ran:
    text = TOY.format(**{"source": "", "generator": "", "scorer": "", "more": "", **options})
    return run_recipe(recipe(text), folder, resumed=resumed)


def met(folder: Path) -> list[tuple[str, int, str]]:
    return [tuple(json.loads(line).values()) for line in (folder / KEPT).read_text().splitlines()]


def test_they_keep_their_promises() -> None:
    check_imports("truing_faults.plugin")
    inside: Any = Scripted(lines=["1"])
    check_spec(FaultyGenerator, generator=inside)
    check_spec(FaultyEnvironment, environment=Calculator())
    check_spec(FaultyDisk)
    check_spec(FaultyServer, to="http://127.0.0.1:8000")
    assert FaultyGenerator(generator=inside).samples == inside.samples
    for spec in (FaultySource, FaultyScorer, FaultyObserver):
        assert spec.implementation()


def test_more_faults_than_calls_are_a_problem_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 1 together"):
        ran(tmp_path, scorer="raises = 0.7\nnans = 0.5")


@pytest.mark.parametrize(
    ("stage", "fault", "told"),
    [
        ("generator", "raises", "a fault that the recipe asks for: call 3 of the generator raises"),
        ("generator", "types", "not all numbers|does not belong there|points to|TypeError|ValueError"),
        ("generator", "shorts", "entries where there are"),
        ("scorer", "hangs", "no answer within 0.5 s"),
        ("scorer", "nans", "`scores` is not all numbers"),
        ("scorer", "types", "`scores` is not all numbers"),
        ("scorer", "shorts", "`scores` has 5 entries where there are 6 along seq"),
    ],
)
def test_a_fault_of_one_call_is_noticed_and_costs_no_group(stage: str, fault: str, told: str, tmp_path: Path) -> None:
    done = ran(tmp_path, **{stage: f"{fault} = 1.0\nafter = 2\nmost = 1"})
    assert done.status == "finished"
    assert [(where, what) for where, _, what in met(done.folder)] == [(stage, fault.removesuffix("s"))]
    [notice] = [
        event.text for event in done.events if isinstance(event, Notice) and "asked for each alone" in event.text
    ]
    assert re.search(told, notice), notice
    assert set(ends(done.events).values()) == {"kept"}
    assert [event.metrics["data/failed"] for event in done.events if isinstance(event, StepDone)] == [0.0] * 5


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", "call 3 of the source raises"),
        ("hangs", r"the source gave no batch within 0\.5 s"),
        ("shorts", "the source gave what is no batch: .* entries where there are"),
        ("types", "the source gave what is no batch"),
    ],
)
def test_a_fault_of_the_source_ends_the_run_with_its_reason_and_a_resume_loses_nothing(
    fault: str, told: str, tmp_path: Path
) -> None:
    options = {"source": f"{fault} = 1.0\nafter = 2\nmost = 1"}
    with pytest.raises(Exception, match=told):
        ran(tmp_path, **options)
    (folder,) = tmp_path.iterdir()
    again = ran(folder, resumed=True, **options)
    assert again.status == "finished"
    assert [event.step for event in again.events if isinstance(event, StepDone)] == [1, 2, 3, 4, 5]
    assert list(ends(again.events).values()) == ["kept"] * 15


def test_weights_that_are_never_taken_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"did not take new weights within 0\.5 s"):
        ran(tmp_path, generator="weights = true\nhangs = 1.0\nmost = 1")


def test_faults_at_random_are_drawn_from_the_seed_and_every_group_comes_to_an_end(tmp_path: Path) -> None:
    faults = {
        "generator": "seed = 1\nraises = 0.25\ndelays = 0.2\nseconds = 0.01\nshorts = 0.2",
        "scorer": "raises = 0.3\nnans = 0.2\ntypes = 0.1",
    }
    one, other = (ran(tmp_path / place, **faults) for place in ("one", "other"))
    assert met(one.folder) == met(other.folder)
    assert len(met(one.folder)) >= 5
    assert ends(one.events) == ends(other.events)
    failed = [event.id for event in one.events if isinstance(event, GroupFailed)]
    assert list(ends(one.events).values()).count("failed") == len(failed) > 0


KILLED = """
import os, sys
from pathlib import Path
from truing.testing import TOY_RECIPE, TOYS, recipe, run_recipe

root = Path(sys.argv[1])
source = 'use = "faulty"\\nkills = 1.0\\nafter = 2\\nmost = 1\\nsource = { use = "toy", groups = 8 }'
made = recipe(TOY_RECIPE.replace('use = "toy"', source, 1) + "checkpoint_every = 1", *TOYS)
child = os.fork()
if not child:
    run_recipe(made, root)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(run_recipe(made, next(root.iterdir()), resumed=True).status)
"""


def test_a_run_that_a_fault_kills_goes_on_and_is_not_killed_again(tmp_path: Path) -> None:
    asked = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert asked.stdout.split() == [str(-signal.SIGKILL), "finished"], asked.stderr
    (folder,) = tmp_path.iterdir()
    assert met(folder) == [("source", 3, "kill")]
    events = [event for _, event in Journal(folder).events()]
    assert {event.step for event in events if isinstance(event, StepDone)} == {1, 2, 3, 4}


def test_an_observer_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    observer = '[[observer]]\nuse = "faulty"\nraises = 1.0\nafter = 3\n[observer.observer]\nuse = "policy-monitor"'
    done = ran(tmp_path, more=observer)
    assert done.status == "finished"
    assert "FaultyObserver stopped watching" in " ".join(
        event.text for event in done.events if isinstance(event, Notice)
    )


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("fulls", "No space left on device"),
        ("readonlys", "Read-only file system"),
        ("shorts", "File too large|No space"),
    ],
)
def test_a_disk_that_takes_nothing_ends_the_run_with_its_reason_and_a_resume_goes_on(
    fault: str, told: str, tmp_path: Path
) -> None:
    more = f'[[observer]]\nuse = "faulty-disk"\n{fault} = 0.02\nafter = 40\nmost = 3'
    folder, resumed, failures = tmp_path, False, list[str]()
    for _ in range(6):
        try:
            done = ran(folder, resumed=resumed, more=more)
            break
        except RunFailed as error:
            failures.append(str(error))
            folder, resumed = next(iter(tmp_path.iterdir())), True
    assert failures
    assert all(re.search(f"cannot write .*({told})", failure) for failure in failures)
    assert done.status == "finished"
    assert sorted(event.step for event in done.events if isinstance(event, StepDone))[-1] == 5
    assert set(ends(done.events).values()) == {"kept"}


def test_the_draws_of_a_component_depend_on_what_happened_before_and_not_on_the_clock(tmp_path: Path) -> None:
    run = Run("it", tmp_path, 3, Bus())
    spec = FaultyScorer(scorer=None, raises=0.3, delays=0.3)  # type: ignore[arg-type]
    first, other = Chance(spec, run, "scorer"), Chance(spec, run, "generator")
    drawn = [first.draw() for _ in range(40)]
    (tmp_path / KEPT).unlink()
    assert drawn == [draw() for draw in [Chance(spec, run, "scorer").draw] * 40]
    assert drawn != [other.draw() for _ in range(40)]
    assert 8 <= sum(map(bool, drawn)) <= 32


# --- environments and servers -----------------------------------------------------------------------------------------


def test_an_environment_fails_at_a_turn(tmp_path: Path) -> None:
    run = Run("it", tmp_path, 0, Bus())

    async def replies(**chances: float) -> Reply:
        spec = FaultyEnvironment(environment=Calculator(), after=1, **chances)  # type: ignore[arg-type]
        episode = await spec.build(run).reset(Task("a", "?", "2", {}, 0))
        return await episode.step(Said("1+1", "="))

    whole = anyio.run(replies)
    assert "2" in str(whole.text)
    assert math.isnan(anyio.run(partial(replies, nans=1.0)).reward)
    assert anyio.run(partial(replies, shorts=1.0)).text == ""
    with pytest.raises(RunFailed, match="call 2 of the environment raises"):
        anyio.run(partial(replies, raises=1.0))


def test_what_a_server_is_asked_through_a_faulty_one_comes_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truing_remote.http.FIRST_PAUSE", 0.002)
    run = Run("it", tmp_path, 0, Bus())
    prompts = asked(*map(str, range(20))).put(SEEDS, list(range(20)))

    async def through(url: str) -> Batch:
        return await OpenAi(url=url, samples=2, max_new_tokens=6, retries=12).build(run).generate(prompts)

    async def go(to: str) -> tuple[Batch, Batch]:
        chances = {"delays": 0.1, "raises": 0.1, "cuts": 0.1, "shorts": 0.1, "kills": 0.05}
        port = free_port()
        between = FaultyServer(to=to, port=port, seconds=0.02, **chances).build(run)
        await between.open()
        try:
            return await through(to), await through(f"http://127.0.0.1:{port}")
        finally:
            await between.close()

    with FakeServer() as server:
        whole, through_faults = anyio.run(go, server.url)
    assert by_completion(through_faults) == by_completion(whole)
    assert {what for _, _, what in met(tmp_path)} >= {"delay", "raise", "cut", "short"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])

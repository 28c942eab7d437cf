"""A long run of short ones, all of them with faults: does anything leak, hang, or get lost?

    python -m tests.soak --minutes 60

Every round is an online run of a tiny model, or one that makes data, whose stages, disk and processes fail at random;
it is stopped and killed now and then, and gone on with until it is done. Most of it happens in this one process, so
what a run leaves behind adds up: memory, files, threads, processes. A round that takes too long ends it all with the
stack of every thread.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import math
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import anyio

ROUND_SECONDS = 900.0
"""a round that takes longer hangs"""
ATTEMPTS = 60
STEPS, BATCH = 6, 3
PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20

STAGES = """
name = "soak"
seed = {seed}

[source]
use = "faulty"
raises = 0.01
shorts = 0.005
source = {{ use = "reasoning-gym", tasks = ["basic_arithmetic"], size = 12 }}

[generator]
use = "faulty"
{faults}
{generator}

[scorer]
use = "faulty"
{faults}
nans = 0.03
scorer = {{ use = "match", close = true }}

[advantage]
use = "group-relative"

[model]
use = "scratch-lm"
dtype = "fp32"
device = "cpu"

[[observer]]
use = "faulty-disk"
fulls = 0.002
readonlys = 0.002
shorts = 0.002
slows = 0.01
seconds = 0.05
"""
LEARNS = """
[optimizer]
use = "adamw"
lr = 1e-3

[loss]
use = "grpo"

[loop]
batch = {batch}
steps = {steps}
checkpoint_every = 1
staleness = {staleness}
failures = {{ share = 1.0, in_a_row = 1000, generate_seconds = {patience}, score_seconds = 2.0, read_seconds = 30.0 }}
"""
COLLECTS = """
[loop]
batch = {batch}
failures = {{ share = 1.0, in_a_row = 1000, generate_seconds = {patience}, score_seconds = 2.0, read_seconds = 30.0 }}
"""
FAULTS = "raises = 0.04\ndelays = 0.1\nhangs = 0.02\nshorts = 0.03\ntypes = 0.03\nseconds = 0.1"
ENGINE = '{ use = "engine", samples = 4, max_new_tokens = 5, dtype = "fp32", device = "cpu" }'


class Kept(NamedTuple):
    """What this process holds."""

    memory: float
    """resident, MiB"""
    files: int
    threads: int
    processes: int

    @classmethod
    def now(cls) -> Kept:
        gc.collect()
        # What is free, and kept to be used again, does not count.
        ctypes.CDLL(None).malloc_trim(0)
        me = Path("/proc/self")
        tasks = list((me / "task").iterdir())
        pages = int((me / "statm").read_text().split()[1])
        # A thread that ends while it is counted has no children.
        with suppress(FileNotFoundError):
            children = sum(len((task / "children").read_text().split()) for task in tasks)
            return cls(pages * PAGE, len(list((me / "fd").iterdir())), len(tasks), children)
        return cls.now()


def text_of(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A recipe, and what is drawn of it."""
    kind = chance.choice(["learns"] * 5 + ["collects"])
    apart = kind == "learns" and chance.random() < 0.15
    staleness = chance.choice([0, 2]) if kind == "learns" else 0
    inside = f'generator = {{ use = "faulty", kills = 0.1, most = 1, generator = {ENGINE} }}'
    generator = f'[generator.generator]\nuse = "process"\n{inside}' if apart else f"generator = {ENGINE}"
    # A process of its own is first to be started.
    options = {"batch": BATCH, "steps": STEPS, "staleness": staleness, "patience": 60.0 if apart else 2.0}
    faults = FAULTS.replace("hangs = 0.02", "hangs = 0") if apart else FAULTS
    way = LEARNS if kind == "learns" else COLLECTS
    whole = STAGES.replace("{generator}", generator).replace("{faults}", faults)
    whole = whole.replace("{seed}", str(chance.randrange(10**6)))
    if kind == "collects":
        whole = whole.replace('[advantage]\nuse = "group-relative"\n', "")
    whole = whole.replace("{{", "{").replace("}}", "}") + way.format(**options)
    return whole, {"kind": kind, "apart": apart, "staleness": staleness}


def go(folder: Path, *, resumed: bool, stop_after: float = 0.0) -> str:
    """Conduct a run, and ask it to stop after so many seconds; how it ended."""
    import torch

    from truing.conduct import conduct
    from truing.errors import TruingError
    from truing.journal import Journal
    from truing.plugins import discover
    from truing.recipe import load
    from truing.run import Stop

    torch.set_num_threads(1)
    plugins, stop = discover(), Stop()
    recipe = load(folder / "resolved.toml", plugins)
    timer = threading.Timer(stop_after, stop.ask, ["enough for now"])
    if stop_after:
        timer.start()
    try:
        return anyio.run(partial(conduct, recipe, Journal(folder), plugins, stop, (), resumed))
    except TruingError as error:
        return f"failed: {error}"
    finally:
        timer.cancel()


def alone(folder: Path, resumed: bool) -> None:
    """The same in a process that is to be killed."""
    go(folder, resumed=resumed)


def fresh(root: Path, text: str) -> Path:
    from truing.journal import Journal
    from truing.plugins import discover
    from truing.recipe import read

    return Journal.create(root, read(text, "soak.toml", discover()), {}).folder


def soaked(root: Path, chance: random.Random, context: Any) -> dict[str, Any]:
    """One round: a run from its beginning to its end. Raises AssertionError where something is lost."""
    text, drawn = text_of(chance)
    folder = fresh(root, text)
    ways: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    resumed, took = False, 2.0
    for _ in range(ATTEMPTS):
        # A new run is killed, or stopped, or left alone; what is left of one is gone on with here.
        way = chance.choice(["killed", "stopped", "left", "left"])
        after = chance.uniform(0.05, took)
        began = time.monotonic()
        if way == "killed":
            child = context.Process(target=alone, args=(folder, resumed))
            child.start()
            child.join(after + 1.0)  # it reads its recipe first
            child.kill()
            child.join()
            status = "killed" if child.exitcode else "done"
        else:
            status = go(folder, resumed=resumed, stop_after=after if way == "stopped" else 0.0)
            reasons.update(
                [status.removeprefix("failed: ").replace(str(folder), "RUN")] if status[:6] == "failed" else []
            )
        ways[f"{way}: {status.partition(':')[0]}"] += 1
        resumed = True
        if status == "finished" or (status == "done" and _status(folder) == "finished"):
            break
        took = max(2.0, time.monotonic() - began)
    else:
        raise AssertionError(f"{folder} is not done after {ATTEMPTS} attempts: {ways} {reasons}")
    told = balanced(folder, drawn)
    faults = Counter(
        f"{met['where']} {met['what']}"
        for path in folder.rglob("faults.jsonl")
        for met in map(json.loads, path.read_text().splitlines())
    )
    shutil.rmtree(folder)
    return {**drawn, **told, "ways": ways, "faults": faults, "reasons": reasons}


def _status(folder: Path) -> str:
    from truing.journal import Journal

    return Journal(folder).read().status


def balanced(folder: Path, drawn: dict[str, Any]) -> dict[str, Any]:
    """Every group that was read ended once, every step learned from what was kept, nothing is older than it may be."""
    from tests.kernel.scenes import ends

    from truing.events import GroupTrained, GroupWritten, StepDone
    from truing.journal import Journal

    events = [event for _, event in Journal(folder).events()]
    found = ends(events)
    assert not list(folder.rglob("*.part")), "something half-written is left"
    if drawn["kind"] == "collects":
        rows = (folder / "data" / "groups.jsonl").read_text().splitlines()
        written = {name for event in events if isinstance(event, GroupWritten) for name in event.ids}
        assert sorted(json.loads(row)["id"] for row in rows) == sorted(written)
        return {"groups": len(found), **Counter(found.values())}
    steps = [event for event in events if isinstance(event, StepDone)]
    assert {event.step for event in steps} == set(range(1, STEPS + 1)), "a step is missing"
    assert max(event.metrics["sample/staleness"] for event in steps) <= drawn["staleness"]
    last = {event.step: event for event in events if isinstance(event, GroupTrained)}
    assert sorted(event.wave for event in last.values()) == [last[step].wave for step in sorted(last)]
    assert not (folder / "checkpoints").exists()
    assert (folder / "model" / "model.safetensors").exists()
    return {"groups": len(found), **Counter(found.values())}


def slope(values: list[float]) -> tuple[float, float, float]:
    """The slope of a line through values at 0, 1, 2, ... by least squares, and its 95 % interval; what is left over may
    depend on what was left over before, so the number of values is that of as many independent ones."""
    count = len(values)
    middle, mean = (count - 1) / 2, statistics.fmean(values)
    spread = sum((at - middle) ** 2 for at in range(count))
    rise = sum((at - middle) * (value - mean) for at, value in enumerate(values)) / spread
    left = [value - mean - rise * (at - middle) for at, value in enumerate(values)]
    whole = sum(each**2 for each in left)
    before = sum(one * other for one, other in pairwise(left)) / whole if whole else 0.0
    independent = max(3.0, count * (1 - max(0.0, before)) / (1 + max(0.0, before)))
    error = math.sqrt(whole / (independent - 2 + 1e-9) / spread * count / independent)
    return rise, rise - 1.96 * error, rise + 1.96 * error


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--minutes", type=float, default=60.0)
    given.add_argument("--rounds", type=int, default=10**9, help="most rounds")
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--rest", type=float, default=1.0, help="seconds of rest for each second of a round")
    given.add_argument("--out", type=Path, help="add a line of JSON for each round to this file")
    options = given.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "truing_generate.engine", "truing_model.causal"])
    root, chance = Path(tempfile.mkdtemp(prefix="soak-")), random.Random(options.seed)
    until, rounds = time.monotonic() + 60 * options.minutes, list[dict[str, Any]]()
    while time.monotonic() < until and len(rounds) < options.rounds:
        faulthandler.dump_traceback_later(ROUND_SECONDS, exit=True)
        began = time.monotonic()
        try:
            told = soaked(root, chance, context)
        except Exception as error:
            told = {"wrong": f"{type(error).__name__}: {error}", "ways": {}, "faults": {}, "reasons": {}}
        took = time.monotonic() - began
        rounds.append({"round": len(rounds), "seconds": took, **Kept.now()._asdict(), **told})
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(rounds[-1]) + "\n")
        faulthandler.cancel_dump_traceback_later()
        time.sleep(min(options.rest * took, max(0.0, until - time.monotonic())))
    told = summary(rounds)
    print(json.dumps(told, indent=2))
    if told["wrong"]:
        sys.exit(f"the folders of what went wrong are in {root}")
    shutil.rmtree(root)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rounds came to, the first third left out where something may grow."""
    warm = rounds[len(rounds) // 3 :]
    sums = {key: sum(each.get(key, 0) for each in rounds) for key in ("groups", "kept", "dropped", "failed")}
    wrong = [each["wrong"] for each in rounds if "wrong" in each]
    told: dict[str, Any] = {"rounds": len(rounds), **sums, "wrong": wrong}
    told |= {
        key: dict(sum((Counter(each[key]) for each in rounds), Counter())) for key in ("ways", "faults", "reasons")
    }
    for key in Kept._fields:
        values = [each[key] for each in warm]
        told[key] = {"first": values[0], "last": values[-1], "most": max(values)}
        if len(values) > 3:
            told[key]["a round"] = slope(values)
    return told


if __name__ == "__main__":
    main()

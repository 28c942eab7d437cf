"""Kills a run with SIGKILL again and again, lets it go on, and says what it came to. A script: see `test_kills`.

    python killing.py FOLDER KILLS SEED

Torch is imported once and each go is a fork of this process. Of four runs one samples ahead, in one an environment
answers, and one learns from completions that exist. A kill comes after a random time, or at a moment that is hard to
hit by chance: amid a step, before a gradient or before the weights move, while a checkpoint is written or renamed,
while the sampler takes new weights, between sampling and learning, between a step and its event, and when the best
look is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from echo import Echo

RECIPE = """
name = "kills"
seed = 3

[source]
use = "jsonl"
path = "{rows}"
skip = 3

[holdout]
use = "jsonl"
path = "{rows}"
limit = 3

[model]
use = "scratch-lm"
dtype = "fp32"
device = "cpu"

[optimizer]
use = "adamw"
lr = 1e-2

[loss]
use = "grpo"
kl = "controlled"

[controller]
use = "adaptive-kl"
nats = 0.01

[generator]
use = "engine"
samples = {samples}
max_new_tokens = {length}
dtype = "fp32"
device = "cpu"
{environment}

[scorer]
use = "match"
close = true

[advantage]
{advantage}

[loop]
batch = 2
steps = 6
evaluate_every = 1
checkpoint_every = 1
best = {{metric = "holdout/score", larger_is_better = false}}
staleness = {staleness}
refill = {refill}
"""
PRINTABLE = "".join(map(chr, range(32, 127)))
OFFLINE = """
name = "kills"
seed = 3
source = {{ use = "jsonl", path = "{rows}", skip = 3 }}
holdout = {{ use = "jsonl", path = "{rows}", limit = 3 }}
model = {{ use = "scratch-lm", dtype = "fp32", device = "cpu" }}
optimizer = {{ use = "adamw", lr = 1e-2 }}
loss = {{ use = "sft" }}

[loop]
batch = 2
steps = 6
evaluate_every = 1
checkpoint_every = 1
best = {{ metric = "holdout/loss", larger_is_better = false }}
"""
WAYS = ("in turn", "ahead", "answered", "offline")
"""to go on: sampling and learning in turn, sampling ahead, in turn with an environment that answers, not sampling"""
MOMENTS = ("gradient", "event", "take", "move", "rename", "score", "", "write", "best", "", "sync", "")
"""in turn of the kills, so that each way meets some"""


def die_at(moment: str, hit: int) -> None:
    """Have this process killed the `hit`th time it comes to a moment."""
    import torch

    from truing import journal, sampling, whole
    from truing_generate.voices import Voice
    from truing_model import state

    left = [hit]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call

    places = {
        "gradient": (torch.Tensor, "backward"),
        "move": (torch.optim.AdamW, "step"),
        "write": (state, "save_file"),
        "sync": (whole, "_sync"),
        "rename": (Path, "rename"),
        "take": (Voice, "take"),
        "score": (sampling.Sampling, "scored"),
        "event": (journal.Journal, "record"),
        "best": (journal.PhaseFolder, "keep_best"),
    }
    where, name = places[moment]
    setattr(where, name, deadly(getattr(where, name)))


def go(folder: Path, *, resumed: bool, moment: str = "", hit: int = 0) -> int:
    """Conduct the run in a process of its own; the number of that process."""
    child = os.fork()
    if child:
        return child
    from truing.conduct import conduct
    from truing.journal import Journal
    from truing.recipe import load
    from truing.run import Stop
    from truing.testing import with_specs

    status = 1
    try:
        if moment:
            die_at(moment, hit)
        plugins = with_specs(Echo)
        recipe = load(folder / "resolved.toml", plugins)
        status = int(anyio.run(conduct, recipe, Journal(folder), plugins, Stop(), (), resumed) != "finished")
    finally:
        os._exit(status)


def ended(child: int) -> bool:
    """Wait for a process; whether it ended well."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def fresh(root: Path, name: str, way: str) -> Path:
    """The folder of a run that has not begun."""
    from truing.journal import Journal
    from truing.testing import recipe

    rows = root / "rows.jsonl"
    # Whatever a fresh model writes is somewhat like these, more or less: so the weights move from the first step on.
    told = [{"id": f"row{at}", "prompt": f"{at}+{at}=", "completion": PRINTABLE[at:]} for at in range(11)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in told))
    # Taking turns, groups that score alike are dropped and others read instead: the same ones, whenever it is killed.
    dropping = {"advantage": 'use = "dynamic-sampling"\nof = { use = "group-relative" }', "refill": 2, "samples": 2}
    plain = {"advantage": 'use = "group-relative"', "refill": 0, "samples": 4}
    ways = {
        "in turn": {**dropping, "staleness": 0, "length": 5, "environment": ""},
        "ahead": {**plain, "staleness": 2, "length": 5, "environment": ""},
        "answered": {**plain, "staleness": 0, "length": 8, "environment": '[generator.environment]\nuse = "echo"'},
    }
    text = OFFLINE.format(rows=rows) if way == "offline" else RECIPE.format(rows=rows, **ways[way])
    return Journal.create(root / name, recipe(text, Echo), {}).folder


def came_to(folder: Path) -> dict[str, Any]:
    """What a run left: its status, the sum of its weights, what each step learned from, and how its groups ended."""
    from scenes import ends

    from truing.events import BestKept, GroupTrained, StepDone
    from truing.journal import Journal

    events = [event for _, event in Journal(folder).events()]
    steps: dict[int, list[GroupTrained]] = {}
    for event in events:
        match event:
            case StepDone():
                steps[event.step] = []
            case GroupTrained():
                steps[event.step].append(event)
            case _:
                pass
    metrics = [event.metrics for event in events if isinstance(event, StepDone)]
    weights = folder / "model" / "model.safetensors"
    return {
        "status": Journal(folder).read().status,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "steps": {step: [[it.ids for it in waves], [it.digest for it in waves]] for step, waves in steps.items()},
        "ends": sorted(ends(events).items()),
        "oldest": max(each.get("sample/staleness", 0.0) for each in metrics),
        "turns": max(each.get("sample/turns", 1.0) for each in metrics),
        "best": [event.step for event in events if isinstance(event, BestKept)][-1],
        "checkpoints": len(list(folder.rglob("checkpoints"))),
    }


def main(root: Path, kills: int, seed: int) -> None:
    """Print a line of JSON for each run: those that nobody killed, one of each way, and then those that were."""
    import torch
    import transformers  # noqa: F401

    import truing_generate.engine  # noqa: F401
    import truing_model.causal  # noqa: F401

    torch.set_num_threads(1)
    chance = random.Random(seed)
    began = time.monotonic()
    for way in WAYS:
        whole = fresh(root, f"whole {way}", way)
        assert ended(go(whole, resumed=False)), "the run that nobody kills does not finish"
        print(json.dumps({"way": way} | came_to(whole)), flush=True)
    took = (time.monotonic() - began) / len(WAYS)
    for kill in range(kills):
        way = WAYS[kill % len(WAYS)]
        folder = fresh(root, f"kill{kill}", way)
        moment = MOMENTS[kill % len(MOMENTS)]
        child = go(folder, resumed=False, moment=moment, hit=chance.randint(1, 6))
        after = chance.uniform(0.0, took)
        if not moment:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        died = not ended(child)
        finished = not died or ended(go(folder, resumed=True))
        told = {"way": way, "moment": moment or f"{after:.2f} s", "died": died, "finished": finished}
        print(json.dumps(told | (came_to(folder) if finished else {})), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(Path(sys.argv[1]), *map(int, sys.argv[2:4]))

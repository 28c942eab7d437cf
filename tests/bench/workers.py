"""What a generator in a process of its own costs, and what it is worth.

    python -m tests.bench.workers sync MODEL         seconds until new weights are out, in this process and over there
    python -m tests.bench.workers overlap --pairs 5  a recipe that samples ahead and one that does not, in turn

MODEL: what `path` of [model] may name. `overlap` pins the one that learns to the first core and the generator to
the second, one thread each; its recipe costs about as much to sample as to learn. A step counts from the event of the
one before it, the first three steps do not. Each pair gives a ratio, and the median of those is what is worth telling.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio

RECIPE = """
name = "overlap"

[source]
use = "reasoning-gym"
tasks = ["basic_arithmetic"]
size = 64

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
use = "process"
threads = 1
cores = [1]

[generator.generator]
use = "engine"
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
batch = 4
steps = {steps}
"""
WARM = 3


def main() -> None:
    """One of the two."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.workers")
    options.add_argument("what", choices=("sync", "overlap"))
    options.add_argument("model", nargs="?", default="")
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--tokens", type=int, default=40)
    given = options.parse_args()
    if given.what == "sync":
        anyio.run(sync, given.model)
    else:
        overlap(given.pairs, given.steps, given.tokens)


def overlap(pairs: int, steps: int, tokens: int) -> None:
    """Print the step of both of each pair, and the ratios."""
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "overlap.toml")
        recipe.write_text(RECIPE.format(steps=steps, tokens=tokens), encoding="utf-8")
        for _ in range(pairs):
            turns, ahead = (_step(recipe, staleness) for staleness in (0, 1))
            ratios.append(turns["step"] / ahead["step"])
            print(json.dumps({"turns": turns, "ahead": ahead, "ratio": ratios[-1]}), flush=True)
    print(json.dumps({"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}))


def _step(recipe: Path, staleness: int) -> dict[str, float]:
    """The median step of a run and of its parts, in seconds."""
    command = ["taskset", "-c", "0", sys.executable, "-m", "truing", "run", str(recipe), "--quiet"]
    command += ["--set", f"loop.staleness={staleness}", "--folder", str(recipe.parent)]
    asked = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    lines = Path(asked.stdout.strip(), "events.jsonl").read_text(encoding="utf-8").splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    ends = [event["time"] for event in events if event["type"] == "StepDone"][WARM:]
    told = {"step": (ends[-1] - ends[0]) / (len(ends) - 1)}
    for stage in ("generate", "learn", "publish"):
        of_stage = [event["seconds"] for event in events if event["type"] == "StageEnded" and event["stage"] == stage]
        told[stage] = statistics.median(of_stage[WARM:])
    return told


async def sync(model: str) -> None:
    """Print the seconds of each way to give new weights out, the median of seven after two that do not count."""
    import torch
    from transformers import AutoModelForCausalLM

    from truing.bus import Bus
    from truing.run import Run
    from truing_generate.plugin import Engine
    from truing_model.loading import origin
    from truing_model.plugin import CausalLm
    from truing_workers.plugin import Process

    torch.set_num_threads(1)
    place = origin(CausalLm(path=model), model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)

    class Held:
        def __init__(self, version: int) -> None:
            self.version, self.origin = version, place

        def tensors(self) -> Iterable[Any]:
            return loaded.named_parameters()

    with tempfile.TemporaryDirectory() as folder:
        run = Run("sync", Path(folder), 0, Bus())
        spec = Engine(dtype="fp32", device="cpu")
        generators: dict[str, Any] = {"here": spec.build(run), "there": Process(generator=spec, threads=1).build(run)}
        told: dict[str, list[float]] = {}
        for version in range(9):
            for name, generator in generators.items():
                began = time.perf_counter()
                await generator.sync_weights(Held(version))
                told.setdefault(name, []).append(time.perf_counter() - began)
            began = time.perf_counter()
            await generators["there"]._read(version % 2)
            told.setdefault("until it is read there", []).append(time.perf_counter() - began)
        for end in run.ends:
            end()
    size = sum(value.nbytes for value in loaded.parameters())
    print(json.dumps({"GB": size / 1e9, **{name: statistics.median(each[2:]) for name, each in told.items()}}))


if __name__ == "__main__":
    main()

"""truing and TRL in turn, on the same bytes, with the same threads, precision and allocator; their ratio pair by pair.

    python -m tests.bench.compare --task dpo --config default --steps 6 --json

The workload and TRL's side are scripts that are not part of the project: BENCH_SCRIPTS names their folder; if it is not
set, `../shared/bench` beside the project. `default` is TRL as a user would run it on a CPU in fp32, `tuned` the best
configuration found: reference log-probabilities precomputed, no gradient checkpointing, micro-batches of one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SCRIPTS = Path(os.environ.get("BENCH_SCRIPTS", Path(__file__).parents[3] / "shared" / "bench"))
TASKS = ("dpo", "sft")
TUNED = ("--set", "per_device_train_batch_size=1", "--set", "gradient_accumulation_steps={batch}")
SAME = {
    "OMP_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1",
    # Both keep the memory they free: truing asks for it by itself, TRL would not, and it is worth a quarter of a step.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


def main() -> int:
    """Both sides in turn, `rounds` times; the last line printed is the comparison as JSON."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.compare")
    options.add_argument("--task", choices=TASKS, required=True)
    options.add_argument("--config", choices=("default", "tuned"), default="default")
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--json", action="store_true", help="print the last line only")
    given = options.parse_args()
    if missing := unavailable():
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, str(SCRIPTS / "workload.py"), "--build", "--out", f"{folder}/data"], Path(folder))
        ours, theirs = [], []
        for _ in range(given.rounds):
            ours.append(truing(given, Path(folder)))
            theirs.append(trl(given, Path(folder)))
            if not given.json:
                print(f"truing {told(ours[-1])}   trl {told(theirs[-1])}")
    print(json.dumps(compared(ours, theirs)))
    return 0


def unavailable() -> str:
    """What is missing to compare, and how to get it; "" if nothing is."""
    if not (SCRIPTS / "workload.py").exists():
        return f"no workload in {SCRIPTS}; name the folder of the scripts in BENCH_SCRIPTS"
    if find_spec("trl") is None:
        return "TRL is not installed: pip install trl==1.16.0"
    return ""


def truing(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our side. Against a TRL that precomputed its reference, ours is known, too: a second epoch on the same data."""
    known = ["--reference-known"] if given.config == "tuned" and given.task == "dpo" else []
    size = ["--steps", str(given.steps), "--batch", str(given.batch)]
    if not (folder / "small_model" / "tokenizer.json").exists():
        for file in (folder / "tok").iterdir():
            (folder / "small_model" / file.name).write_bytes(file.read_bytes())
    command = ["-m", "tests.bench.truing_side", "--task", given.task, "--folder", str(folder), *size, *known]
    return run([sys.executable, *command], folder)


def trl(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """TRL's side."""
    tuned = [part.format(batch=given.batch) for part in TUNED] if given.config == "tuned" else []
    size = ["--steps", str(given.steps), "--batch", str(given.batch), "--config", given.config]
    return run([sys.executable, str(SCRIPTS / f"trl_{given.task}.py"), *size, *tuned], folder)


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Run one side and read its last line. Raises RuntimeError with what it said when it failed."""
    environment = {
        **os.environ,
        **SAME,
        "BENCH_DIR": str(folder),
        "TRUING_CACHE": str(folder / "cache" / os.urandom(4).hex()),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def compared(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median ratio of speed pair by pair, that of peak memory, and both sides' medians."""
    ratios = {
        key: statistics.median(one[key] / other[key] for one, other in zip(ours, theirs, strict=True))
        for key in ("tokens_per_s", "peak_rss_mb")
    }
    return {
        "ratio": round(ratios["tokens_per_s"], 3),
        "memory_ratio": round(ratios["peak_rss_mb"], 3),
        "truing": medians(ours),
        "trl": medians(theirs),
    }


def medians(side: list[dict[str, Any]]) -> dict[str, float]:
    """Tokens a second and peak memory of one side."""
    return {key: round(statistics.median(one[key] for one in side), 1) for key in ("tokens_per_s", "peak_rss_mb")}


def told(side: Mapping[str, Any]) -> str:
    """One side in a few words."""
    return f"{side['tokens_per_s']:,.0f} tokens/s, {side['peak_rss_mb']:,} MB"


if __name__ == "__main__":
    sys.exit(main())

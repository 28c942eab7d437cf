"""truing and TRL in turn, on the same bytes, with the same threads, precision and allocator; their ratio pair by pair.

    python -m tests.bench.compare --task dpo --config default --steps 6 --json

The workload and TRL's side are scripts that are not part of the project: BENCH_SCRIPTS names their folder; if it is not
set, `../shared/bench` beside the project. `default` is TRL as a user would run it on a CPU in fp32; `again` is the same
from the second epoch on, where truing knows its reference and TRL asks it anew; `tuned` is the best configuration
found: reference log-probabilities precomputed, no gradient checkpointing, small micro-batches.

`--allocator own` leaves the allocator of each side as it is: truing asks for freed memory to be kept by itself, TRL
does not. By default both keep it.
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
TASKS = ("dpo", "sft", "reward", "kto", "grpo", "generate")
BATCH = {"grpo": 4, "generate": 4}
"""Groups a step: eight pairs, texts or labelled answers; four prompts with eight completions of 64 tokens."""
ONE_BY_ONE = ("per_device_train_batch_size=1", "gradient_accumulation_steps={batch}")
TUNED = {
    "dpo": ONE_BY_ONE,
    "sft": ONE_BY_ONE,
    "reward": ONE_BY_ONE,
    # Smaller micro-batches are refused: the KL estimate needs two.
    "kto": ("per_device_train_batch_size=2", "gradient_accumulation_steps=4"),
    "grpo": ("per_device_train_batch_size=4", "gradient_accumulation_steps=8"),
    "generate": (),
}
"""The best configuration of TRL that was found for a task, beside no gradient checkpointing and known references."""
FIGURES = ("tokens_per_s", "new_tokens_per_s", "train_s_per_step", "peak_rss_mb")
"""What is compared: speed, more is better; seconds of the training part of a step, less is; memory, less is."""
SAME = {
    "OMP_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1",
}
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Keeps freed memory in the process. truing asks for that by itself, TRL does not; it is worth a quarter of a step."""


def main() -> int:
    """Both sides in turn, `rounds` times; the last line printed is the comparison as JSON."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.compare")
    options.add_argument("--task", choices=TASKS, required=True)
    options.add_argument("--config", choices=("default", "again", "tuned"), default="default")
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--allocator", choices=("same", "own"), default="same")
    options.add_argument("--json", action="store_true", help="print the last line only")
    given = options.parse_args()
    if missing := unavailable():
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        ours, theirs = [], []
        for _ in range(given.rounds):
            ours.append(truing(given, Path(folder)))
            theirs.append(trl(given, Path(folder)))
            if not given.json:
                print(f"truing {told(ours[-1])}   trl {told(theirs[-1])}")
    print(json.dumps(compared(given.task, ours, theirs)))
    return 0


def unavailable() -> str:
    """What is missing to compare, and how to get it; "" if nothing is."""
    if not (SCRIPTS / "workload.py").exists():
        return f"no workload in {SCRIPTS}; name the folder of the scripts in BENCH_SCRIPTS"
    if find_spec("trl") is None:
        return "TRL is not installed: pip install trl==1.16.0"
    return ""


def prepare(folder: Path) -> None:
    """The workload, its model and its tokenizer."""
    run([sys.executable, str(SCRIPTS / "workload.py"), "--build", "--out", f"{folder}/data"], folder)
    for file in (folder / "tok").iterdir():
        (folder / "small_model" / file.name).write_bytes(file.read_bytes())
    (folder / "scripts").symlink_to(SCRIPTS)


def truing(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our side. Its reference is known from the second epoch on, and against a TRL that precomputed its own."""
    known = ["--reference-known"] if given.config != "default" and given.task in ("dpo", "kto") else []
    command = ["-m", "tests.bench.truing_side", "--task", given.task, "--folder", str(folder), *size(given), *known]
    return run([sys.executable, *command], folder, given.allocator)


def trl(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """TRL's side. Its generation is timed within its GRPO."""
    batch = BATCH.get(given.task, 8)
    tuned = [part.format(batch=batch) for part in TUNED[given.task]] if given.config == "tuned" else []
    sets = [argument for part in tuned for argument in ("--set", part)]
    script = SCRIPTS / f"trl_{'grpo' if given.task == 'generate' else given.task}.py"
    config = "tuned" if given.config == "tuned" else "default"
    seen = run([sys.executable, str(script), *size(given), "--config", config, *sets], folder, given.allocator)
    if "gen_tokens_per_s" in seen:
        seen["new_tokens_per_s"] = seen["gen_tokens_per_s"]
    return seen


def size(given: argparse.Namespace) -> list[str]:
    return ["--steps", str(given.steps), "--batch", str(BATCH.get(given.task, 8))]


def run(command: list[str], folder: Path, allocator: str = "same") -> dict[str, Any]:
    """Run one side and read its last line. Raises RuntimeError with what it said when it failed."""
    environment = {
        **os.environ,
        **SAME,
        **(KEPT if allocator == "same" else {}),
        "BENCH_DIR": str(folder),
        "TRUING_CACHE": str(folder / "cache" / os.urandom(4).hex()),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def compared(task: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratio that the task is about, the other ratios by name, and both sides' medians."""
    known = [key for key in FIGURES if key in ours[0] and key in theirs[0]]
    if task == "generate":
        known = [key for key in known if key in ("new_tokens_per_s", "peak_rss_mb")]
    ratios = {
        key: round(statistics.median(one[key] / other[key] for one, other in zip(ours, theirs, strict=True)), 3)
        for key in known
    }
    return {
        "ratio": ratios["new_tokens_per_s" if task == "generate" else "tokens_per_s"],
        "ratios": ratios,
        "truing": medians(ours, known),
        "trl": medians(theirs, known),
    }


def medians(side: list[dict[str, Any]], known: list[str]) -> dict[str, float]:
    """The medians of one side."""
    return {key: round(statistics.median(one[key] for one in side), 3) for key in known}


def told(side: Mapping[str, Any]) -> str:
    """One side in a few words."""
    return f"{side['tokens_per_s']:,.0f} tokens/s, {side['peak_rss_mb']:,} MB"


if __name__ == "__main__":
    sys.exit(main())

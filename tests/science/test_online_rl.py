"""Learning curves of online RL: GRPO, PPO and RLOO from one small model, by three seeds; and completions that are old.

Four different digits are to be written backward. A model of 0.15 million fresh weights learns that from demonstrations
until it is right now and then; the rest it learns from what it writes itself, being told what is right. All phases
of a run begin with the same model, and are looked at by the same questions, which none learns from. Curves are what
MLflow was told. TRUING_MLFLOW names its store, sqlite:///..., where a seed that is there is not run anew, and
TRUING_SEEDS other seeds, separated by commas. Tables are printed, and written to the file that TRUING_TABLE names, with
a picture beside it.
"""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import anyio
import pytest
from mlflow.tracking import MlflowClient
from tests.science.children import where, write

from truing.conduct import conduct
from truing.events import Event, StageEnded, WaveAdmitted
from truing.journal import Journal
from truing.plugins import discover
from truing.run import Stop
from truing.script import Script
from truing.testing import recipe

SEEDS = tuple(map(int, os.environ.get("TRUING_SEEDS", "0,1,2").split(",")))
DIGITS = 4
SHOWN, HELD = 1500, 100
"""questions that are at hand to demonstrate, and of each kind that is held out"""
POOL = 3200
"""questions to learn from; they come round again"""
EXPERIMENT, PHASE = "online-rl", "truing.phase"
STEPS, FEWER = 300, 40
"""of a phase, and of one on completions eight versions old"""

Curve = dict[int, float]
"""the share of right answers to held-out questions, by the step"""
Curves = Mapping[str, Sequence[Curve]]
"""those of all seeds, by the name of the phase"""


class Phase(NamedTuple):
    """What is in the tables of a phase, by their names; its steps, how many versions old its completions are, and how
    the learning rate goes."""

    parts: Mapping[str, str]
    steps: int = STEPS
    age: int = 0
    schedule: str = "cosine"


POLICY = 'use = "policy"\npasses = 2\nminibatches = 2'
GRPO = {"model": POLICY, "advantage": 'use = "group-relative"', "loss": 'use = "grpo"'}
DECOUPLED = GRPO | {"loss": 'use = "grpo"\nanchor = "proximal"\ncorrect = "token"'}
"""Of fresh completions the same as GRPO: the model as it is when a batch is begun is the one that wrote it."""
VALUES = 'use = "gae"\ntrace = 1.0\nwhiten = false'
"""Over a standard deviation that shrinks as all comes out right, the few errors left would grow."""
ONE_PASS = GRPO | {"model": 'use = "causal-lm"'}
ALGORITHMS = {
    "grpo": Phase(GRPO),
    "ppo": Phase(
        {"model": f"{POLICY}\nvalue_head = true", "model.advantage": VALUES, "loss": 'use = "ppo"'},
    ),
    "rloo": Phase({"model": POLICY, "advantage": 'use = "leave-one-out"', "loss": 'use = "ppo"\nvalue = 0.0'}),
}
OLD = {
    "eight-old-uncorrected": Phase(ONE_PASS | {"loss": 'use = "grpo"\nanchor = "proximal"'}, FEWER, 8, "constant"),
    "eight-old": Phase(ONE_PASS, FEWER, 8, "constant"),
    "two-old": Phase(DECOUPLED, STEPS, 2),
}
"""With anchor "proximal" and one pass the ratio is 1, as if completions were the model's of now."""


def source(at: int, count: int) -> str:
    return f'use = "jsonl"\npath = "{{rows}}"\nid = "id"\nskip = {at}\nlimit = {count}'


def table(name: str, phase: Phase) -> str:
    """A phase that learns from what the demonstrated model writes."""
    tables = {
        "source": source(SHOWN + 2 * HELD, POOL),
        "holdout": source(SHOWN + HELD, HELD),
        "generator": f'use = "engine"\nseats = 256\nmax_new_tokens = {DIGITS + 3}',
        "scorer": 'use = "match"',
        "optimizer": f'use = "adamw"\nlr = 1e-3\nschedule = "{phase.schedule}"',
        "loop": f"batch = 16\nsteps = {phase.steps}\nevaluate_every = 20\nstaleness = {phase.age}",
    }
    tables |= phase.parts
    tables["model"] += '\npath = "@sft"'
    return "".join(f"[phase.{name}.{part}]\n{body}\n\n" for part, body in tables.items())


def text(seed: int, folder: Path, store: str) -> str:
    rows = write(folder / "rows.jsonl", questions(SHOWN + 2 * HELD + POOL))
    begun = f"""
name = "digits"
seed = {seed}

[[observer]]
use = "mlflow"
experiment = "{EXPERIMENT}"
tracking_uri = "{store}"
system_metrics = false
log_model = "none"

[phase.sft.source]
{source(0, SHOWN)}

[phase.sft.holdout]
{source(SHOWN, HELD)}

[phase.sft.model]
use = "scratch-lm"
deviation = 0.125

[phase.sft.optimizer]
use = "adamw"
lr = 3e-3
schedule = "constant"

[phase.sft.loss]
use = "sft"

[phase.sft.loop]
batch = 16
evaluate_every = 5

[[phase.sft.loop.until]]
metric = "holdout/loss"
below = 0.5

"""
    learned = (table(name, phase) for name, phase in (ALGORITHMS | OLD).items())
    return (begun + "".join(learned)).replace("{rows}", str(rows))


def questions(count: int) -> Iterator[Mapping[str, Any]]:
    """Different rows of digits, each to be written backward. No digit is twice in a row: small models look for the one
    they wrote last and write what stands before it, and were stuck where that is not one place."""
    every = ["".join(digits) for digits in permutations("0123456789", DIGITS)]
    for said in random.Random(0).sample(every, count):
        yield {"id": said, "prompt": [{"role": "user", "content": said}], "completion": said[::-1]}


def run(seed: int, folder: Path, store: str) -> None:
    """Run all phases of a seed, and tell MLflow."""
    made = recipe(text(seed, folder, store))
    journal = Journal.create(folder, made, {})
    script = Script(schedule())
    assert anyio.run(partial(conduct, made, journal, discover(), Stop(), script=script)) == "finished"


def schedule() -> Iterator[Event]:
    """When each wave is sampled, told as by a run that is replayed: when its completions will be as old as they are to
    be. Left to the clock they would be as old as this machine makes them, within the bound."""
    for name, phase in (ALGORITHMS | OLD).items():
        for wave in range(1, phase.steps + 1):
            version = max(0, wave - 1 - phase.age)
            yield WaveAdmitted(phase=name, wave=wave, ids=[])
            yield StageEnded(phase=name, stage="generate", wave=wave, began=0.0, seconds=0.0, version=version)


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    store = os.environ.get("TRUING_MLFLOW", "") or f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    for seed in sorted(set(SEEDS) - told(store).keys()):
        run(seed, tmp_path_factory.mktemp(f"seed-{seed}"), store)
    found = told(store)
    by_phase = {name: [found[seed][name] for seed in SEEDS] for name in ALGORITHMS | OLD}
    say(by_phase)
    return by_phase


def told(store: str) -> Mapping[int, Mapping[str, Curve]]:
    """What MLflow has of finished runs: by their seeds, the curve of each phase."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the library that MLflow keeps its tables with
        client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    found: dict[int, dict[str, Curve]] = {}
    whole = {run.info.run_id: int(run.data.params["seed"]) for run in runs if run.data.tags[PHASE] == "(all)"}
    for run in runs:
        seed = whole.get(run.data.tags.get("mlflow.parentRunId", ""))
        if seed is not None and run.info.status == "FINISHED":
            points = client.get_metric_history(run.info.run_id, "holdout/score")
            found.setdefault(seed, {})[run.data.tags[PHASE]] = {point.step: point.value for point in points}
    return {seed: phases for seed, phases in found.items() if phases.keys() >= (ALGORITHMS | OLD).keys()}


def test_grpo_takes_a_model_from_below_a_fifth_to_above_nine_tenths(curves: Curves) -> None:
    for curve in curves["grpo"]:
        assert curve[0] < 0.2
        assert curve[STEPS] > 0.9


@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_by_every_seed_ppo_and_rloo_come_as_far_as_grpo(name: str, curves: Curves) -> None:
    for curve, grpo in zip(curves[name], curves["grpo"], strict=True):
        assert abs(curve[STEPS] - grpo[STEPS]) < 0.05


def test_by_every_seed_completions_two_versions_old_are_worth_what_fresh_ones_are(curves: Curves) -> None:
    for old, fresh in zip(curves["two-old"], curves["grpo"], strict=True):
        assert abs(old[STEPS] - fresh[STEPS]) < 0.02


def test_by_every_seed_completions_eight_versions_old_teach_with_the_correction_and_a_tenth_less_without(
    curves: Curves,
) -> None:
    for corrected, uncorrected in zip(curves["eight-old"], curves["eight-old-uncorrected"], strict=True):
        assert corrected[FEWER] > corrected[0]
        assert corrected[FEWER] - uncorrected[FEWER] > 0.1


# The table


def say(curves: Curves) -> None:
    """Print a table, and write it and the picture where TRUING_TABLE says."""
    text = "\n".join(lines(curves)) + "\n"
    print(f"\n{where()}; {time.process_time() / 60:.1f} minutes of CPU time\n\n{text}")
    if place := os.environ.get("TRUING_TABLE", ""):
        Path(place).write_text(text, encoding="utf-8")
        draw(curves, Path(place).with_suffix(".png"))


def lines(curves: Curves) -> Iterator[str]:
    steps = (0, 40, 100, 160, 220, STEPS)
    yield f"| | {' | '.join(f'step {step}' for step in steps)} | each seed at the end |"
    yield "| --- " * (len(steps) + 2) + "|"
    for name, some in curves.items():
        cells = [figure([curve[step] for curve in some]) if step in some[0] else "" for step in steps]
        ends = ", ".join(f"{curve[max(curve)]:.3f}" for curve in some)
        yield f"| `{name}` | {' | '.join(cells)} | {ends} |"


def figure(values: Sequence[float]) -> str:
    """Mean and standard deviation of the seeds."""
    return f"{fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def draw(curves: Curves, path: Path) -> None:
    """The mean of the seeds as a line and their range as a band."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(11, 4.2), layout="constrained")
    for at, (title, names) in enumerate({"fresh completions": ALGORITHMS, "old completions": OLD}.items(), 1):
        axes = sheet.add_subplot(1, 2, at, title=title, xlabel="step", ylim=(-0.02, 1.02))
        axes.set_ylabel("right answers to held-out questions")
        for name in names:
            steps = list(curves[name][0])
            values = [[curve[step] for curve in curves[name]] for step in steps]
            line = axes.plot(steps, [fmean(some) for some in values], label=name)[0]
            bounds = [min(some) for some in values], [max(some) for some in values]
            axes.fill_between(steps, *bounds, alpha=0.15, color=line.get_color(), linewidth=0)
        axes.legend()
    sheet.savefig(path, dpi=100)

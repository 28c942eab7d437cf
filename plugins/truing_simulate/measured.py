"""What a run measured of its stages, and the pace that follows from one or several of them.

How a piece of work depends on its size has two terms, one that is always there and one that grows with the tokens. Runs
of different sizes tell them apart; of a single run, a share says how much of the time is the first.

Where sampling and learning go on beside each other on one machine, both take longer. How much longer is told by a run
in which they did, held against runs in which they took turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from truing.errors import Problem, UserError
from truing.events import Event, GroupDropped, ModelSaved, PhaseStarted, StageEnded, StepDone, WaveAdmitted
from truing.journal import Journal
from truing_simulate.command import STAGES
from truing_simulate.course import worked
from truing_simulate.lengths import Lengths
from truing_simulate.pace import Pace, rounds

_WARM = 2
"""waves and steps at the beginning that are left out: what is loaded, compiled and allocated then never is again"""
_DIFFERENT = 1.5
"""how many times larger the largest run must be for its terms to be told apart"""
_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0}
_OTHER = {"generate": "learn", "learn": "generate"}
"""what goes on beside what"""
_MOST_LOST = 0.9
"""share of what a device does that another may take from it"""
_DRAWS, _PROMPTS = 32, 4096
"""at least so many waves, and so many prompts, are drawn to know how many rounds a wave takes in the mean"""


@dataclass(frozen=True)
class Measured:
    """One phase of a run on one device that samples and one, or the same, that learns. seconds: of each piece of work,
    by stage. groups, samples: of a wave. length: mean tokens of a completion. cut: share of them that is as long as may
    be. dropped: share of groups that the estimator left out. weights: bytes of the model, 0: nobody says. beside: mean
    seconds of a piece of work, by stage, while which the other of sampling and learning went on."""

    origin: str
    seconds: Mapping[str, Sequence[float]]
    groups: int
    samples: int
    seats: int
    length: float
    cut: float
    most: int
    dropped: float
    weights: float
    beside: Mapping[str, float] = field(default_factory=dict[str, float])

    def mean(self, stage: str) -> float:
        """Mean seconds of a piece of work, 0 where there was none."""
        return fmean(self.seconds[stage]) if self.seconds.get(stage) else 0.0


class Shares(NamedTuple):
    """What a single run does not tell: the share of sampling that is rounds, and of a step that more devices do not
    make shorter. spread: of lengths, None: by what was cut. beside: how many times as long sampling and learning take
    at once, None: as runs of both kinds tell."""

    rounds: float = 0.5
    serial: float = 0.05
    spread: float | None = None
    beside: float | None = None


def measured(folder: Path, phase: str, generators: Mapping[str, Any]) -> Measured:
    """What a run measured of a phase, of its only online one if it has none of that name. generators: specs by their
    names. Raises UserError."""
    where = str(folder)
    if not (folder / "events.jsonl").is_file():
        raise UserError(Problem(where, "there is no events.jsonl here, so this is no run folder"))
    everything = [event for _, event in Journal(folder).events()]
    begun = [event for event in everything if isinstance(event, PhaseStarted) and "generator.use" in event.options]
    names = list(dict.fromkeys(event.phase for event in begun))
    name = phase if phase in names else names[0] if len(names) == 1 else None
    if name is None:
        what = f"none of its phases is called {phase!r}" if names else "none of its phases samples"
        raise UserError(Problem(where, what, f"those that sample: {', '.join(names)}" if names else ""))
    options = next(event.options for event in reversed(begun) if event.phase == name)
    events = [event for event in everything if getattr(event, "phase", None) == name]
    spec = generators.get(options["generator.use"])
    return from_events(where, events, options, getattr(spec, "shares_device", False))


def from_events(where: str, events: Sequence[Event], options: Mapping[str, Any], shared: bool) -> Measured:
    """What the events of a phase with these options say. Raises UserError where they are too few."""
    steps = [event.metrics for event in events if isinstance(event, StepDone)][_WARM:]
    works = [work for work in worked(events, shared) if work.wave or work.stage == "publish"]
    by_stage = {stage: [work for work in works if work.stage == stage][_WARM:] for stage in STAGES}
    seconds = {stage: [work.seconds for work in some] for stage, some in by_stage.items()}
    if len(steps) < 2 or not seconds["generate"]:
        raise UserError(Problem(where, f"it has {len(steps) + _WARM} steps or fewer, too few to measure", "run longer"))
    read = sum(len(event.ids) for event in events if isinstance(event, WaveAdmitted))
    dropped = sum(1 for event in events if isinstance(event, GroupDropped) and "teach nothing" in event.reason)
    saved = [event.facts for event in events if isinstance(event, ModelSaved)]
    facts: Mapping[str, Any] = saved[-1] if saved else {}
    return Measured(
        origin=where,
        seconds=seconds,
        groups=int(options["loop.batch"]),
        samples=int(option(options, "samples", 1)) + int(option(options, "opponents", 0)),
        seats=int(option(options, "seats", 0)) or seats_of(facts.get("device", "")),
        length=fmean(metrics["sample/length"] for metrics in steps),
        cut=fmean(metrics.get("sample/cut", 0.0) for metrics in steps),
        most=int(option(options, "max_new_tokens", 0)),
        dropped=dropped / read,
        weights=facts.get("parameters", 0) * _BYTES.get(facts.get("precision", ""), 4.0),
        beside={
            stage: _together(by_stage[stage], [work for work in works if work.stage == other])
            for stage, other in _OTHER.items()
        },
    )


def _together(works: Sequence[StageEnded], others: Sequence[StageEnded]) -> float:
    """Mean seconds of a piece of work while which one of the others went on; these go on one after another."""
    spans = [(other.began, other.began + other.seconds) for other in others]
    shared = [
        sum(max(0.0, min(work.began + work.seconds, end) - max(work.began, began)) for began, end in spans)
        for work in works
    ]
    return fmean(shared) if shared else 0.0


def option(options: Mapping[str, Any], name: str, default: Any) -> Any:
    """An option of the generator, or of the one inside of it."""
    return options.get(f"generator.{name}", options.get(f"generator.generator.{name}", default))


def seats_of(device: str) -> int:
    """How many an engine has on a device unless it is told."""
    return 64 if device == "cpu" else 256


def pace_of(runs: Sequence[Measured], shares: Shares, most: int) -> Pace:
    """The pace of the device that all of these runs were on. most: tokens of the longest completion there may be.

    Where in some of them sampling and learning took turns, the others tell how much they slow each other down. Where in
    none of them, what they took beside each other is what they take.
    """
    in_turns = [run for run in runs if not any(run.beside.values())]
    pace = _alone(in_turns or runs, shares, most)
    apart = [run for run in runs if run not in in_turns]
    if shares.beside:
        return replace(pace, slowed=dict.fromkeys(_OTHER, shares.beside))
    return replace(pace, slowed=_slowed(pace, apart, shares)) if in_turns and apart else pace


def _alone(runs: Sequence[Measured], shares: Shares, most: int) -> Pace:
    first = runs[0]
    sizes = [_size(run, shares) for run in runs]
    rounded, tokens, learned = (list(column) for column in zip(*sizes, strict=True))
    round_seconds, token_seconds = _terms(rounded, tokens, [run.mean("generate") for run in runs], shares.rounds)
    step, token = _terms([1.0] * len(runs), learned, [run.mean("learn") for run in runs], shares.serial)
    return Pace(
        lengths=Lengths.fitted(first.length, first.cut, first.most, shares.spread)._replace(most=most),
        round_seconds=round_seconds,
        token_seconds=token_seconds,
        score_seconds=fmean(run.mean("score") / (run.groups * run.samples) for run in runs),
        step_seconds=step,
        learn_seconds=token,
        publish_seconds=fmean(run.mean("publish") for run in runs),
        weights=first.weights,
        dropped=fmean(run.dropped for run in runs),
        noise={
            stage: [each / run.mean(stage) for run in runs for each in run.seconds.get(stage, ()) if each]
            for stage in STAGES
        },
    )


def _slowed(pace: Pace, runs: Sequence[Measured], shares: Shares) -> Mapping[str, float]:
    """How many times as long sampling and learning take beside each other. While a piece of work is slowed down by s it
    gets on by 1 / s a second, so what it took less what it takes alone is (1 - 1 / s) of the time it was."""
    found: dict[str, float] = {}
    for stage in _OTHER:
        more = together = 0.0
        for run in runs:
            rounded, tokens, learned = _size(run, shares)
            sampling = pace.round_seconds * rounded + pace.token_seconds * tokens
            alone = sampling if stage == "generate" else pace.step_seconds + pace.learn_seconds * learned
            more += run.mean(stage) - alone
            together += run.beside[stage]
        lost = min(max(more / together, 0.0), _MOST_LOST) if together else 0.0
        found[stage] = 1 / (1 - lost)
    return found


class Size(NamedTuple):
    """Of a wave: rounds in the mean, tokens that are sampled, and that are learned from."""

    rounds: float
    tokens: float
    learned: float


def _size(run: Measured, shares: Shares) -> Size:
    lengths = Lengths.fitted(run.length, run.cut, run.most, shares.spread)
    tokens = run.length * run.groups * run.samples
    return Size(_rounds(run, lengths), tokens, tokens * (1 - run.dropped))


def _rounds(run: Measured, lengths: Lengths) -> float:
    """How many rounds a wave of it takes in the mean."""
    draws = max(_DRAWS, _PROMPTS // run.groups)
    waves = (lengths.draw(list(range(at * run.groups, (at + 1) * run.groups)), run.samples) for at in range(draws))
    return fmean(rounds(wave.ravel(), run.seats) for wave in waves)


def _terms(
    ones: Sequence[float], tokens: Sequence[float], seconds: Sequence[float], share: float
) -> tuple[float, float]:
    """Seconds of each term, neither of them below 0: by least squares of the relative error where sizes differ."""
    if max(tokens) < _DIFFERENT * min(tokens):
        whole = fmean(seconds)
        return share * whole / fmean(ones), (1 - share) * whole / fmean(tokens)
    x, y = (np.array(some) / np.array(seconds) for some in (ones, tokens))
    found, *_ = np.linalg.lstsq(np.stack([x, y], axis=1), np.ones(len(seconds)), rcond=None)
    first, second = map(float, found)
    if first < 0:
        return 0.0, float(y.sum() / (y @ y))
    return (float(x.sum() / (x @ x)), 0.0) if second < 0 else (first, second)

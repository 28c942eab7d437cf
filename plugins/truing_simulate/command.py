"""`truing simulate`: the options, and who does what. What is heavy is imported when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.errors import Problem, UserError
from truing_reports.telling import Json, as_json

if TYPE_CHECKING:
    from truing.recipe import Phase
    from truing_simulate.measured import Measured
    from truing_simulate.pace import Places

STAGES = ("generate", "score", "learn", "publish")

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.", show_default=False)]
Gpus = Annotated[int, typer.Option(min=1, help="How many devices there are.")]
From = Annotated[
    list[Path] | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="A run whose times are taken; several of different sizes tell how time depends on size.",
    ),
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STAGE=S",
        help="Seconds that generate, score, learn or publish take for a wave on one device; may be repeated.",
    ),
]
Plan = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What `truing plan RECIPE --json` said of learning.", show_default=False),
]
Length = Annotated[float | None, typer.Option(metavar="TOKENS", help="Mean length of completions; else as measured.")]
Spread = Annotated[
    float | None,
    typer.Option(metavar="S", help="Deviation of the logarithm of the lengths; else by how many were cut."),
]
Generate = Annotated[int | None, typer.Option(metavar="N", help="So many devices sample, and the others learn.")]
Copy = Annotated[int, typer.Option(min=1, metavar="N", help="Devices that hold one copy of the model that samples.")]
Seats = Annotated[int | None, typer.Option(metavar="N", help="Completions that a copy samples at a time.")]
Scorers = Annotated[int, typer.Option(min=1, metavar="N", help="Completions that are scored side by side.")]
RoundShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of sampling that is there however many completions are sampled.")
]
Serial = Annotated[float, typer.Option(min=0, max=1, help="Share of a step that more devices do not make shorter.")]
BesideEachOther = Annotated[
    float | None,
    typer.Option(
        min=1, metavar="TIMES", help="How many times as long sampling and learning take at once; else as runs tell."
    ),
]
Network = Annotated[float, typer.Option(min=0, metavar="GB/S", help="Speed between devices; 0: no matter.")]
Latency = Annotated[float, typer.Option(min=0, metavar="S", help="Seconds from one device that learns to the next.")]
Steps = Annotated[int, typer.Option(min=4, help="How many steps are played.")]
Seed = Annotated[int, typer.Option(help="Of the lengths and of what varies.")]
PhaseName = Annotated[str | None, typer.Option("--phase", metavar="NAME", help="Else the only one that samples.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one value of the recipe.")
]


def simulate(
    recipe: Recipe,
    gpus: Gpus = 1,
    runs: From = None,
    seconds: Given = None,
    plan: Plan = None,
    length: Length = None,
    spread: Spread = None,
    generate: Generate = None,
    copy: Copy = 1,
    seats: Seats = None,
    scorers: Scorers = 1,
    round_share: RoundShare = 0.5,
    serial: Serial = 0.05,
    beside: BesideEachOther = None,
    network: Network = 0.0,
    latency: Latency = 0.0,
    steps: Steps = 32,
    seed: Seed = 0,
    phase: PhaseName = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Play the online loop of a recipe on so many devices, on a clock of its own.

    Stages take the time that was measured on one device, scaled; nothing is computed. It says how busy sampling and
    learning are, how old what is learned from, what waits for whom, and how the devices are best divided.
    """
    from truing.plugins import discover
    from truing.recipe import load
    from truing_simulate import measured, printing, splits
    from truing_simulate.pace import Places
    from truing_simulate.playing import Player

    plugins = discover()
    one = _phase(load(recipe, plugins, overrides or ()).phases, phase, str(recipe))
    generators = plugins.registry.shelf("generator")
    found = [measured.measured(run, one.name, generators) for run in runs or ()]
    known = _known(found, one, seconds or (), plan, length)
    most = getattr(one.generator, "max_new_tokens", known[0].most)
    pace = measured.pace_of(known, measured.Shares(round_share, serial, spread, beside), most)
    own = getattr(one.generator, "seats", 0) or getattr(one.generator, "concurrency", 0) or known[0].seats
    shared = gpus == 1 and getattr(one.generator, "shares_device", False)
    places = Places(1, 1, shared, copy, seats or own, scorers, network * 1e9, latency)
    tried = _tried(Player(one.loop, _samples(one), pace, seed), places, gpus, generate, steps)
    best = splits.best(tried)
    if json:
        as_json({"phase": one.name, "pace": printing.told(pace), "splits": tried, "best": best})
    else:
        printing.show(one, known, pace, tried, best)


def _tried(player: Any, places: Places, gpus: int, generate: int | None, steps: int) -> Sequence[Any]:
    from truing_simulate import splits

    if generate is not None and not 0 < generate < gpus:
        raise UserError(Problem("--generate", f"{generate} of {gpus} devices leave none to one of the two"))
    if places.copy >= gpus > 1:
        raise UserError(Problem("--copy", f"a copy on {places.copy} of {gpus} devices leaves none to learn"))
    if gpus == 1:
        return [splits.simulated(player, places, steps)]
    if generate is None:
        return splits.searched(player, places, gpus, steps)
    return [splits.simulated(player, places._replace(generate=generate, learn=gpus - generate), steps)]


def _phase(phases: Sequence[Phase], name: str | None, where: str) -> Phase:
    """The phase that is played. Raises UserError."""
    online = [phase for phase in phases if phase.generator and not phase.makes_data]
    wanted = [phase for phase in online if name is None or phase.name == name]
    if len(wanted) == 1:
        return wanted[0]
    names = ", ".join(repr(phase.name) for phase in online)
    what = "no phase of it learns from what it samples" if not online else f"one of its phases is to be named: {names}"
    raise UserError(Problem(where, what, "add --phase" if online else ""))


def _known(
    runs: Sequence[Measured], phase: Phase, given: Sequence[str], plan: Path | None, length: float | None
) -> Sequence[Measured]:
    """What was measured, or what is said of a wave as the recipe has it. Raises UserError."""
    from truing_simulate.measured import Measured, seats_of

    told = dict(map(_given, given))
    most = getattr(phase.generator, "max_new_tokens", 0)
    if length and length > (most or length):
        what = f"completions of this recipe have at most {most} tokens"
        raise UserError(Problem(f"--length {length:g}", what, "set max_new_tokens of the generator with --set"))
    if plan:
        # A plan is of completions as long as they may be.
        told.setdefault("learn", _planned(plan, phase) * (length or most / 2) / most)
    seconds = {stage: [value] for stage, value in told.items()}
    if runs:
        cut = {"length": length, "cut": 0.0} if length else {}
        return [replace(run, seconds={**run.seconds, **seconds}, **cut) for run in runs]
    if missing := [word for word in ("generate", "learn") if word not in told]:
        mend = "name a run with --from RUN, or say it with --seconds"
        raise UserError(
            Problem("truing simulate", f"nobody says how long it takes to {' and to '.join(missing)}", mend)
        )
    samples, seats = _samples(phase), getattr(phase.generator, "seats", 0) or seats_of("")
    return [Measured("", seconds, phase.loop.batch, samples, seats, length or most / 2, 0.0, most, 0.0, 0.0)]


def _given(text: str) -> tuple[str, float]:
    """A stage and its seconds. Raises UserError."""
    stage, _, value = text.partition("=")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if stage not in STAGES or seconds < 0:
        raise UserError(Problem(f"--seconds {text}", f"write STAGE=SECONDS; stages are {', '.join(STAGES)}"))
    return stage, seconds


def _samples(phase: Phase) -> int:
    """Completions of a prompt."""
    return getattr(phase.generator, "samples", 1) + getattr(phase.generator, "opponents", 0)


def _planned(plan: Path, phase: Phase) -> float:
    """Seconds of a step, by what `truing plan --json` said of the phase. Raises UserError."""
    import msgspec

    try:
        for told in msgspec.json.decode(plan.read_bytes())["phases"]:
            if told["phase"] == phase.name and told["estimate"]:
                return float(told["estimate"]["seconds"]["step"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        mend = "truing plan RECIPE --json > FILE"
        raise UserError(Problem(str(plan), f"no plan can be read here: {error}", mend)) from None
    raise UserError(Problem(str(plan), f"it estimates no phase called {phase.name!r}"))

"""How a simulation is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from truing.recipe import Phase
from truing_simulate.measured import Measured
from truing_simulate.pace import Pace
from truing_simulate.splits import Split

_AT_ONCE = (("generate", "sampling"), ("learn", "learning"))


def told(pace: Pace) -> Mapping[str, Any]:
    """A pace for a program: without what was measured one by one."""
    return {name: value for name, value in vars(pace).items() if name not in ("noise", "lengths")} | {
        "lengths": pace.lengths._asdict()
    }


def show(phase: Phase, known: Sequence[Measured], pace: Pace, tried: Sequence[Split], best: Split) -> None:
    """Where the times come from, every division that was tried, and the best one in full."""
    for run in known:
        times = ", ".join(f"{stage} {run.mean(stage):.3g} s" for stage in run.seconds)
        origin = f"measured in {run.origin}" if run.origin else "as said"
        print(f"{origin}: {times}, for {run.groups} prompts of {run.samples} completions")
    lengths, samples = pace.lengths, getattr(phase.generator, "samples", 1)
    print(f"waves of {phase.loop.batch} prompts of {samples} completions, staleness {phase.loop.staleness}")
    print(f"completions of {lengths.mean():.0f} tokens, at most {lengths.most}, spread {lengths.spread:.2f}")
    if pace.slowed:
        slower = (f"{what} takes {pace.slowed[stage]:.2f} times as long" for stage, what in _AT_ONCE)
        print(f"beside each other {' and '.join(slower)}")
    print()
    _table([("GENERATE", "LEARN", "STEP", "TOKENS/S", "GENERATING", "LEARNING", "AGE"), *map(_row, tried)])
    print()
    for what, text in _facts(best):
        print(f"{what:<14}{text}")
    if best.copies > phase.loop.batch:
        print(f"\na wave has {phase.loop.batch} prompts, so no more copies sample at a time: enlarge loop.batch")


def _row(split: Split) -> Sequence[str]:
    course = split.course
    return (
        str(split.generate),
        "in turns" if split.in_turns else str(split.learn),
        f"{course.step_seconds:.3g} s",
        f"{course.tokens_per_second:,.0f}",
        f"{course.busy['generate']:.0%}",
        f"{course.busy['learn']:.0%}",
        f"{course.age:.2f}",
    )


def _facts(split: Split) -> Iterator[tuple[str, str]]:
    course = split.course
    how = "in turns" if split.in_turns else f"{split.generate} generate, {split.learn} learn"
    yield "best", f"{how}: {3600 / course.step_seconds:,.0f} steps an hour"
    yield "generating", f"{course.busy['generate']:.0%} of the time, and then {split.fill:.0%} of the devices"
    for stage, what in (("score", "scoring"), ("learn", "learning"), ("publish", "new weights")):
        yield what, f"{course.busy[stage]:.0%} of the time"
    yield "age", ", ".join(f"{age}: {share:.0%}" for age, share in course.ages.items())
    for what, wait in course.waiting.items():
        yield "waiting", f"{what}: {wait.mean:.2f} waves in the mean, {wait.most} at most"


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))

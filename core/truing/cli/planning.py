"""`truing plan`: what a recipe will take, before its models are loaded and without training."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from truing.cli import output
from truing.cli.options import Block, Json, Overrides

if TYPE_CHECKING:
    from truing.fields import Batch
    from truing.recipe import Phase, Recipe
    from truing.run import Run
    from truing.stage import Estimate, ModelSpec, SourceSpec

_STEPS, _GROUPS = 32, 512
"""The most steps, and about the most groups, that are looked at."""


class Planned(NamedTuple):
    """What is told of a phase. estimate: None where nothing can be said, for the reason that `why` gives."""

    phase: str
    model: str
    groups: int
    steps: int
    estimate: Estimate | None
    why: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether there is room for it now."""
        return self.estimate.peak <= self.estimate.free if self.estimate else None


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.", show_default=False)],
    overrides: Overrides = None,
    json: Json = False,
    block: Block = None,
) -> None:
    """Say what a recipe will take: memory, tokens and time.

    The data are opened and this machine is measured for a few seconds; no model is loaded and nothing is trained.
    """
    import anyio

    from truing.errors import TruingError, first_cause
    from truing.plugins import discover
    from truing.recipe import load

    loaded = load(recipe, discover(block or ()), overrides or ())
    try:
        planned = anyio.run(_planned, loaded)
    except Exception as error:  # a task group wraps what a source raised, whatever that is
        cause = first_cause(error)
        if isinstance(cause, TruingError):
            raise cause from None
        raise
    if json:
        phases = [{**one._asdict(), "fits": one.fits} for one in planned]
        output.json({"recipe": str(recipe), "digest": loaded.digest(), "phases": phases})
    else:
        _print(planned)
    for one in planned:
        if one.fits is False and one.estimate:
            room = f"{size(one.estimate.peak)}, and {size(one.estimate.free)} are free here"
            output.say(f"{recipe}: {one.phase or 'it'} does not fit: it will take {room}")


async def _planned(recipe: Recipe) -> list[Planned]:
    """Every phase in turn. Raises UserError for data that cannot be used."""
    import tempfile

    from truing.bus import Bus
    from truing.check import wanted
    from truing.run import Run

    for observer in recipe.observers:
        _import_all(observer.target.partition(":")[0])
    found: list[Planned] = []
    earlier: dict[str, ModelSpec] = {}
    with tempfile.TemporaryDirectory(prefix="truing-plan-") as folder:
        run = Run(recipe.name, Path(folder), recipe.seed, Bus())
        for phase in recipe.phases:
            found.append(await _phase(phase, run.at(phase.name, wanted(phase)), earlier))
            assert phase.model, "check() lets no phase through without a model"
            earlier[phase.name] = phase.model
    return found


async def _phase(phase: Phase, run: Run, earlier: Mapping[str, ModelSpec]) -> Planned:
    from anyio.to_thread import run_sync

    from truing.check import PHASE_DATA, named

    assert phase.source, "check() lets no phase through without a source"
    assert phase.model, "check() lets no phase through without a model"
    loop, name, model = phase.loop, phase.name, phase.model.name
    if earlier_data := [made for _, made in named(phase.source, PHASE_DATA)]:
        return Planned(name, model, 0, 0, None, f"it reads what {', '.join(earlier_data)} has yet to write")
    groups, batches = await _sample(phase.source, loop.batch, run)
    if phase.makes_data:
        steps = min(loop.steps or groups, math.ceil(groups / loop.batch))
        groups = min(groups, steps * loop.batch)
        what = f"it writes {groups:,} groups down in {steps:,} batches; what sampling takes is not planned"
        return Planned(name, model, groups, steps, None, what)
    held = (await _sample(phase.holdout, 1, run))[0] if phase.holdout else 0
    per_epoch = math.ceil(groups / loop.batch)
    steps = loop.steps or per_epoch * (loop.epochs or 1)
    between = (steps - 1) // loop.evaluate_every if loop.evaluate_every else 0
    planner = _planner(phase.model)

    def estimate() -> Estimate | None:
        return planner(phase, batches, steps=steps, per_epoch=per_epoch, looks=held * (2 + between), earlier=earlier)

    told = await run_sync(estimate) if planner else None
    return Planned(name, model, groups, steps, told, f'model "{model}" says nothing of itself; {steps:,} steps')


async def _sample(source: SourceSpec, batch: int, run: Run) -> tuple[int, list[Batch]]:
    """How many groups a source has, and the first of its steps. Raises UserError."""
    from truing.errors import Problem, UserError

    opened = source.build(run)
    info = await opened.open()
    if info.groups == 0:
        raise UserError(Problem(info.origin, "no groups to learn from"))
    batches: list[Batch] = []
    async for some in opened.batches(batch, 0):
        batches.append(some)
        if len(batches) == _STEPS or len(batches) * batch >= _GROUPS:
            break
    return info.groups, batches


def _import_all(module: str) -> None:
    """Import a module and those beside it: what an observer imports when it opens is part of what a run takes."""
    package = importlib.import_module(module.rpartition(".")[0] or module)
    for beside in pkgutil.iter_modules(getattr(package, "__path__", ())):
        # What is not installed, a run will tell.
        with suppress(ImportError):
            importlib.import_module(f"{package.__name__}.{beside.name}")


def _planner(spec: ModelSpec) -> Any:
    module, _, attribute = spec.planner.partition(":")
    return getattr(importlib.import_module(module), attribute) if module else None


def _print(planned: Sequence[Planned]) -> None:
    """A column for each phase; what their models say nothing of is left out."""
    told = [(one, one.estimate) for one in planned if one.estimate]
    parts = dict.fromkeys(part for _, estimate in told for part in estimate.memory)
    shares = dict.fromkeys(part for _, estimate in told for part in estimate.seconds if part not in ("step", "phase"))
    rows = [["parameters", *(f"{estimate.parameters:,}" for _, estimate in told)]]
    rows += [["  trained", *(f"{estimate.trained:,}" for _, estimate in told)]]
    rows += [["peak memory", *(size(estimate.peak) for _, estimate in told)]]
    rows += [[f"  {part}", *(size(estimate.memory.get(part, 0)) for _, estimate in told)] for part in parts]
    rows += [["free memory", *(size(estimate.free) for _, estimate in told)]]
    rows += [["tokens per step", *(f"{estimate.tokens:,.0f}" for _, estimate in told)]]
    rows += [["steps", *(f"{one.steps:,}" for one, _ in told)]]
    rows += [["time of a step", *(duration(estimate.seconds["step"]) for _, estimate in told)]]
    rows += [[f"  {part}", *(duration(estimate.seconds.get(part, 0.0)) for _, estimate in told)] for part in shares]
    rows += [["time in all", *(duration(estimate.seconds["phase"]) for _, estimate in told)]]
    if told:
        output.table(("", *(one.phase or one.model for one, _ in told)), rows)
    for one in planned:
        start = f"{one.phase}: " if one.phase else ""
        if one.estimate is None:
            print(f"{start}{one.why}")
        for note in one.estimate.notes if one.estimate else ():
            print(f"{start}{note}")


def size(count: float) -> str:
    """Bytes, for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Seconds, for a person."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

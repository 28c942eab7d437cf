"""A run in several processes: a launcher starts them all with one command; the first runs the recipe, others follow.

    torchrun --nproc-per-node 4 -m truing run recipe.toml

What they do together is the affair of whatever model the recipe has; here is only whether as many are there as it says.
A launcher may start fewer and say nothing (`accelerate launch --cpu` does), and then a run would be another one.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from truing.plugins import Plugins
    from truing.recipe import Recipe


Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="In how many processes it learns, all of them started so.")
]


def load_for(file: Path, plugins: Plugins, overrides: Sequence[str], processes: int | None) -> Recipe:
    """A recipe, as one for so many processes where that is said. Raises UserError."""
    from truing.recipe import load

    recipe = load(file, plugins, overrides)
    if processes is None:
        return recipe
    learning = [phase for phase in recipe.phases if phase.model and phase.model.follower and not phase.makes_data]
    told = [f"{'.'.join(phase.table('model', 'parallel', 'processes'))}={processes}" for phase in learning]
    return load(file, plugins, [*overrides, *told])


def follow(recipe: Recipe, where: str, command: str) -> None:
    """Leave with the exit status of a process that follows, if this is one. Raises UserError when the recipe is for
    other processes than were started. command: that all of them were started with."""
    from truing.errors import Problem, UserError

    rank, count = _launched()
    wanted = _wanted(recipe)
    if len(wanted) > 1:
        what = f"its phases are for {' and '.join(map(str, sorted(wanted)))} processes"
        raise UserError(Problem(where, what, "one number of processes serves all phases"))
    (expected,) = wanted or {1}
    if expected != count:
        if rank > 0:
            raise typer.Exit(2)
        launcher = f"torchrun --nproc-per-node {expected} -m " if expected > 1 else ""
        what = f"it is for {_several(expected)}, and {_several(count)} {'were' if count > 1 else 'was'} started"
        mend = f"start it with: {launcher}truing {command} {where}"
        mend += f"; or have it learn in {_several(count)}, with --processes {count}" if command != "replay" else ""
        raise UserError(Problem(where, what, mend))
    if rank > 0:
        raise typer.Exit(_module(recipe).follow(recipe, rank, count, _on_gpus(recipe)))


@contextmanager
def leading(recipe: Recipe) -> Generator[None]:
    """The others are there meanwhile, and are let go whatever becomes of the run."""
    rank, count = _launched()
    if count == 1:
        yield
        return
    team = _module(recipe).lead(rank, count, _on_gpus(recipe))
    well = False
    try:
        yield
        well = True
    finally:
        team.end(well=well)


def _several(count: int) -> str:
    return f"{count} processes" if count > 1 else "one process"


def _launched() -> tuple[int, int]:
    """Which process this is, and of how many, as every launcher says it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _wanted(recipe: Recipe) -> set[int]:
    """For how many processes the phases are that learn in more than one."""
    return {phase.model.processes for phase in recipe.phases if phase.model} - {1}


def _module(recipe: Recipe) -> Any:
    model = next(phase.model for phase in recipe.phases if phase.model and phase.model.processes > 1)
    return importlib.import_module(model.follower)


def _on_gpus(recipe: Recipe) -> bool:
    import torch

    asked = {getattr(phase.model, "device", "cpu") for phase in recipe.phases}
    return asked != {"cpu"} and torch.cuda.is_available()

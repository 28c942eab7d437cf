"""Conducts a run: folder, journal, observers, and the phases one after another.

Components do not know of each other; they are built here and handed to a loop. Observers must open before the first
phase; an observer that raises later is reported and left out, and training goes on.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream

from truing.bus import Bus
from truing.check import wanted
from truing.collect import collect
from truing.errors import Problem, TruingError, UserError, first_cause
from truing.events import DataOpened, Event, ModelSaved, Notice, PhaseEnded, RunEnded, RunStarted
from truing.fields import fields
from truing.journal import MEMORY, Journal, PhaseFolder
from truing.loop import Parts
from truing.offline import offline
from truing.online import online
from truing.plugins import Plugins
from truing.recipe import Phase, Recipe
from truing.run import Run, Stop, Stopped
from truing.sampling import Stages
from truing.script import Script
from truing.stage import Observer
from truing.whole import sum_up, write_whole

_CLOSE_SECONDS = 60.0
"""how long observers may take to finish once the run has ended"""
_LAST_SECONDS = 2.0
"""how long an observer may take to close when the run is cancelled"""
_PACKAGES = ("truing", "torch", "transformers", "accelerate", "peft", "datasets", "mlflow", "msgspec", "anyio")


def versions(plugins: Plugins) -> dict[str, str]:
    """The versions a result depends on: libraries, and the package of every plugin."""
    found = {plugin.package: plugin.version for plugin in plugins.loaded if not plugin.error}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


async def conduct(
    recipe: Recipe,
    journal: Journal,
    plugins: Plugins,
    stop: Stop,
    extra: Sequence[Observer] = (),
    resumed: bool = False,
    script: Script | None = None,
) -> str:
    """Run a recipe to its end and say how it ended: `finished` or `interrupted`.

    extra: observers beside the recipe's own. script: of the run that this one replays. Raises UserError for input that
    proves wrong on the way and RunFailed when the run broke; whatever is raised, the journal says so first.
    """
    bus = Bus(start=journal.count(), keep=journal.record)
    opened = _opened(journal) if resumed else {}
    run = Run(recipe.name, journal.folder, recipe.seed, bus, stop=stop, resumed=resumed, opened=opened, script=script)
    journal.mark("running")
    status, failure = "failed", None
    try:
        observers = await _open_observers(recipe, run, extra)
        async with anyio.create_task_group() as own:
            for observer in extra:
                own.start_soon(_watch, observer, bus.subscribe(Event), run)
            async with anyio.create_task_group() as strangers:
                for observer in observers:
                    strangers.start_soon(_watch, observer, bus.subscribe(Event), run, RunEnded)
                bus.publish(_started(recipe, journal, plugins, resumed))
                for doubt in _doubts(recipe, journal) if resumed else ():
                    bus.publish(Notice(text=doubt))
                failure = await _phases(recipe, journal, run)
                status = "failed" if failure else "interrupted" if stop else "finished"
                bus.publish(RunEnded(status=status, reason=_reason(failure) if failure else stop.reason))
                # An observer that hangs is left behind; what it did not do, `truing track` does later.
                strangers.cancel_scope.deadline = anyio.current_time() + _CLOSE_SECONDS
            bus.close()
    except anyio.get_cancelled_exc_class():
        bus.publish(RunEnded(status="interrupted", reason=stop.reason or "cancelled"))
        bus.close()
        journal.mark("interrupted", stop.reason or "cancelled")
        raise
    except BaseException as error:
        failure = first_cause(error)
        bus.close()
    journal.mark(status if not failure else "failed", _reason(failure) if failure else stop.reason)
    if failure:
        raise failure
    return status


def _opened(journal: Journal) -> dict[tuple[str, str], str]:
    """The digests of the data that a run had when it first opened them."""
    found: dict[tuple[str, str], str] = {}
    for _, event in journal.events():
        if isinstance(event, DataOpened):
            found.setdefault((event.phase, event.role), event.digest)
    return found


def _doubts(recipe: Recipe, journal: Journal) -> Iterator[str]:
    """What of the run's folder is not what it was."""
    if lines := journal.spoiled():
        yield f"events.jsonl: these lines were torn or are not what was written, and are left out: {lines}"
    if recipe.digest() != journal.read().digest:
        yield "resolved.toml: it is another recipe than the one this run began with"


async def _phases(recipe: Recipe, journal: Journal, run: Run) -> Exception | None:
    """One after another; a phase whose model or data are there was done before a resume. A failure is returned, not
    raised, so that the observers live to hear of it."""
    try:
        for phase in recipe.phases:
            if journal.phase(phase.name).made:
                await anyio.to_thread.run_sync(journal.phase(phase.name).verify)
                journal.phase(phase.name).forget()  # a kill may have come before
            elif not run.stop:
                await _phase(phase, journal, run)
    except Exception as error:
        cause = first_cause(error)
        assert isinstance(cause, Exception)
        return cause
    return None


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, TruingError) else f"{type(error).__name__}: {error}"


async def track(recipe: Recipe, journal: Journal) -> None:
    """Open and close the observers that send events elsewhere, so that each sends what is missing. Raises UserError."""
    run = Run(recipe.name, journal.folder, recipe.seed, Bus(), resumed=True)
    remote = [spec.build(run) for spec in recipe.observers if spec.remote]
    if not remote:
        raise UserError(
            Problem(
                str(journal.folder), "no observer of this run sends events anywhere", 'add [[observer]] use = "mlflow"'
            )
        )
    for observer in remote:
        await observer.open()
        await observer.close()


async def _phase(phase: Phase, journal: Journal, run: Run) -> None:
    run = run.at(phase.name, wanted(phase))
    folder = journal.phase(phase.name)
    status = "failed"
    try:
        stages = await run.unless_stopped(_parts if not phase.makes_data else _stages, phase, run)
        if isinstance(stages, Parts):
            await (online if stages.generator else offline)(stages, phase.loop, run, folder)
            if not run.stop:
                await _export(stages, folder, run)
        elif stages is not None:
            await collect(stages, phase.loop, run, folder)
        status = "interrupted" if run.stop else "finished"
    except Stopped:
        status = "interrupted"
    finally:
        with anyio.CancelScope(shield=True):
            for end in reversed(run.ends):
                await anyio.to_thread.run_sync(end)
        run.bus.publish(PhaseEnded(phase=phase.name, status=status))


async def _export(parts: Parts, folder: PhaseFolder, run: Run) -> None:
    facts: dict[str, Any] = {}

    def write(path: Path) -> None:
        facts.update(parts.model.export(path))
        if parts.memory:
            (path / MEMORY).write_bytes(msgspec.json.encode(parts.memory.kept()))
        sum_up(path)

    await run.on_device(write_whole, folder.model, write)
    path, step = str(folder.model.resolve()), parts.model.version
    run.bus.publish(ModelSaved(phase=run.phase, path=path, facts=facts, step=step))
    folder.forget()


def _stages(phase: Phase, run: Run) -> Stages:
    # check() lets no phase through without these two.
    assert phase.source
    assert phase.model
    return Stages(
        source=phase.source.build(run),
        model=phase.model.build(run),
        generator=phase.generator.build(run) if phase.generator else None,
        scorer=phase.scorer.build(run) if phase.scorer else None,
        look=phase.look.build(run) if phase.look else None,
        beside=bool(phase.look and phase.look.beside),
        advantage=phase.advantage.build(run) if phase.advantage else None,
        options=_flat(phase),
    )


def _parts(phase: Phase, run: Run) -> Parts:
    # Nor one that learns without these.
    assert phase.optimizer
    assert phase.loss
    return Parts(
        **vars(_stages(phase, run)),
        optimizer=phase.optimizer.build(run),
        loss=phase.loss.build(run),
        needs=phase.loss.requires() | (phase.controller.requires() if phase.controller else fields()),
        controller=phase.controller.build(run) if phase.controller else None,
        holdout=phase.holdout.build(run) if phase.holdout else None,
    )


def _flat(phase: Phase) -> dict[str, Any]:
    """Every option of a phase by its path, those of components inside components, too."""
    tables = Recipe("", 0, [phase], []).resolved()
    found: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in cast("dict[str, Any]", value).items():
                add(f"{path}.{key}" if path else key, inner)
        else:
            found[path] = value

    for key, table in (tables["phase"][phase.name] if phase.name else tables).items():
        if isinstance(table, dict):
            add(key, table)
    return found


async def _open_observers(recipe: Recipe, run: Run, extra: Sequence[Observer]) -> list[Observer]:
    """The recipe's observers, and the extra ones opened too. One that does not open ends the run before it begins."""
    observers = [spec.build(run) for spec in recipe.observers]
    opened: list[Observer] = []
    for observer in [*extra, *observers]:
        try:
            await observer.open()
        except Exception:
            for earlier in opened:
                await earlier.close()
            raise
        opened.append(observer)
    return observers


async def _watch(
    observer: Observer, stream: MemoryObjectReceiveStream[Event], run: Run, last: type[Event] | None = None
) -> None:
    """Feed an observer until an event of the kind `last`, or until the bus is closed: what a stranger still says while
    it closes is heard by our own."""
    name = type(observer).__name__
    async with stream:
        try:
            async for event in stream:
                await observer.observe(event)
                if last and isinstance(event, last):
                    break
            await observer.close()
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_LAST_SECONDS, shield=True):
                await observer.close()
            raise
        except Exception as error:  # an observer is a stranger: whatever it raises must not stop training
            run.bus.publish(Notice(text=f"{name} stopped watching: {type(error).__name__}: {error}"))


def _started(recipe: Recipe, journal: Journal, plugins: Plugins, resumed: bool) -> RunStarted:
    return RunStarted(
        name=recipe.name,
        folder=str(journal.folder.resolve()),
        digest=recipe.digest(),
        phases=[phase.name for phase in recipe.phases],
        versions=versions(plugins),
        commit=_commit(),
        resumed=resumed,
    )


def _commit() -> str:
    """The git commit of the folder the run was started in, "" outside of a repository."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()

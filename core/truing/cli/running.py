"""`truing run`, `resume` and `track`: a run from a terminal, with its signals, its last words and its exit status."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import socket
import sys
import traceback as tracebacks
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from truing.cli import output
from truing.cli.options import Block, Json, Overrides, Traceback
from truing.cli.together import Processes, follow, leading, load_for

if TYPE_CHECKING:
    from anyio import CancelScope

    from truing.journal import Journal
    from truing.plugins import Plugins
    from truing.recipe import Recipe
    from truing.run import Stop
    from truing.script import Script
    from truing.stage import Observer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the run's folder on stdout.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run.", show_default=False)]
Mode = Literal["auto", "json", "quiet"]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.", show_default=False)],
    overrides: Overrides = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where runs are kept, each in a folder of its own.")] = Path(
        "runs"
    ),
    processes: Processes = None,
    json: Json = False,
    quiet: Quiet = False,
    block: Block = None,
    traceback: Traceback = False,
) -> None:
    """Check a recipe, then run it.

    Ctrl-C takes a checkpoint and stops; a second one stops at once.
    """
    from truing.conduct import versions
    from truing.journal import Journal
    from truing.plugins import discover

    plugins = discover(block or ())
    loaded = load_for(recipe, plugins, overrides or (), processes)
    follow(loaded, str(recipe), "run")
    mode = mode_of(json, quiet, loaded)
    journal = Journal.create(folder, loaded, versions(plugins))
    go(loaded, journal, plugins, mode, resumed=False, traceback=traceback)


def resume(
    folder: Folder,
    json: Json = False,
    quiet: Quiet = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on even if the run seems to be under way elsewhere.")
    ] = False,
    processes: Processes = None,
    block: Block = None,
    traceback: Traceback = False,
) -> None:
    """Go on with an interrupted run.

    It may have been killed or have failed as well; it goes on from its newest checkpoint.
    """
    from truing.plugins import discover

    journal = journal_of(folder)
    return_to(journal)
    plugins = discover(block or ())
    loaded = load_for(journal.folder / "resolved.toml", plugins, (), processes)
    follow(loaded, str(folder), "resume")
    _refuse(journal, force)
    go(loaded, journal, plugins, mode_of(json, quiet, loaded), resumed=True, traceback=traceback)


def track(folder: Folder, block: Block = None) -> None:
    """Send a run's events to its tracking server.

    Only those that have not arrived yet: those of a run that was offline, for example.
    """
    import anyio

    from truing.conduct import track
    from truing.plugins import discover
    from truing.recipe import load

    journal = journal_of(folder)
    _under_way(journal)
    return_to(journal)
    recipe = load(journal.folder / "resolved.toml", discover(block or ()))
    anyio.run(track, recipe, journal)
    output.say("everything has arrived")


def journal_of(folder: Path) -> Journal:
    """The journal of a run that is gone on with. Raises UserError."""
    from truing.journal import Journal

    journal = Journal(folder.resolve())
    journal.read()
    _stays_inside(journal.folder)
    return journal


def _stays_inside(folder: Path) -> None:
    """Refuse a run with a link to somewhere else: what is written into it would be written there. Raises UserError."""
    from truing.errors import Problem, UserError

    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink()]
    outside = [path for path in links if not path.resolve().is_relative_to(folder)]
    if outside:
        raise UserError(
            Problem(str(path), f"it leads out of the run, to {path.resolve()}", "put what it names in its place")
            for path in outside
        )


def return_to(journal: Journal) -> None:
    """Go to the folder the run was started in: the paths of its recipe are relative to it."""
    from truing.errors import Problem, UserError

    place = journal.read().place
    try:
        os.chdir(place)
    except OSError as error:
        what = f"cannot return to {place}, where this run was started: {error.strerror}"
        raise UserError(Problem(str(journal.folder), what)) from None


def _refuse(journal: Journal, force: bool) -> None:
    """A run that is done, or that some process still works on, is not resumed. Raises UserError."""
    from truing.errors import Problem, UserError

    kept = journal.read()
    where = str(journal.folder)
    if kept.status == "finished":
        raise UserError(
            Problem(where, "this run has finished; there is nothing to go on with", "`truing run` begins a new one")
        )
    if kept.status != "running" or force:
        return
    if kept.host != socket.gethostname():
        what = f"process {kept.pid} on {kept.host} was running this, and from here nobody can see whether it still does"
        raise UserError(Problem(where, what, "if it does not, add --force"))
    _under_way(journal)


def _under_way(journal: Journal) -> None:
    """Refuse a run that a process of this machine works on right now. Raises UserError."""
    from truing.errors import Problem, UserError

    kept = journal.read()
    if kept.status == "running" and kept.host == socket.gethostname() and _alive(kept.pid):
        what = f"process {kept.pid} is running this right now"
        raise UserError(Problem(str(journal.folder), what, "stop it first, or wait for it"))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process that nobody has collected yet still has a number; in a container that may be for good.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def mode_of(json: bool, quiet: bool, recipe: Recipe) -> Mode:
    """How the console speaks. Raises UserError when the command line and the recipe both say."""
    from truing.errors import Problem, UserError

    asked = [option for option, given in (("--json", json), ("--quiet", quiet)) if given]
    if len(asked) > 1:
        raise UserError(Problem("--json --quiet", "one of them, not both"))
    if asked and _has(recipe, "console"):
        raise UserError(Problem(asked[0], "the recipe has a console observer of its own", "leave one of the two out"))
    return "json" if json else "quiet" if quiet else "auto"


def _has(recipe: Recipe, observer: str) -> bool:
    return any(spec.name == observer for spec in recipe.observers)


def go(
    recipe: Recipe,
    journal: Journal,
    plugins: Plugins,
    mode: Mode,
    *,
    resumed: bool,
    traceback: bool,
    script: Script | None = None,
) -> None:
    """Conduct the run, say where to look, and leave with its exit status unless it is finished."""
    import anyio

    from truing.errors import TruingError, first_cause
    from truing.run import Stop

    in_one_heap()
    stop = Stop()
    console = _console(recipe, journal, plugins, mode)
    try:
        with leading(recipe):
            status = anyio.run(partial(_conducted, recipe, journal, plugins, stop, console, resumed, script))
    except KeyboardInterrupt:
        status = None
    except Exception as error:
        cause = first_cause(error)
        output.say(f"run folder  {journal.folder}")
        unexpected = cause if not isinstance(cause, TruingError) else cause.__cause__
        kept = journal.folder / "traceback.txt"
        if unexpected and not isinstance(unexpected, TruingError | OSError):
            kept.write_text("".join(tracebacks.format_exception(unexpected)), encoding="utf-8")
        if isinstance(cause, TruingError):
            if kept.exists():
                output.say(f"where it came from  {kept}")
            raise cause from None
        output.say_unexpected(cause, traceback, str(kept))
        raise typer.Exit(1) from None
    status = status or "interrupted"
    _last_words(recipe, journal, status, mode)
    if status == "interrupted":
        _leave()


def in_one_heap() -> None:
    """Have all threads of this process ask one heap for memory. glibc gives each its own, and that of the thread which
    learns goes back to the system whenever it is free, to be fetched again in the next step."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_HEAPS, 1)


_HEAPS = -8
"""M_ARENA_MAX of glibc's malloc.h"""


async def _conducted(
    recipe: Recipe,
    journal: Journal,
    plugins: Plugins,
    stop: Stop,
    console: list[Observer],
    resumed: bool,
    script: Script | None,
) -> str | None:
    """The run, with the signals that stop it. None if it was cancelled."""
    import anyio

    from truing.conduct import conduct

    status = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_listen, stop, tasks.cancel_scope)
        status = await conduct(recipe, journal, plugins, stop, console, resumed, script)
        tasks.cancel_scope.cancel()
    return status


async def _listen(stop: Stop, scope: CancelScope) -> None:
    """The first signal asks the run to stop, the second cancels it, and a third meets Python's own handlers."""
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if stop:
                scope.cancel()
                return
            stop.ask(f"interrupted by {signal.Signals(number).name}")
            output.say("stopping, with a checkpoint; once more to stop at once")


def _console(recipe: Recipe, journal: Journal, plugins: Plugins, mode: Mode) -> list[Any]:
    """The console, unless the recipe has one, its plugin is left out, or nobody wants to hear."""
    import msgspec

    from truing.bus import Bus
    from truing.run import Run

    spec = plugins.registry.shelf("observer").get("console")
    if spec is None or mode == "quiet" or _has(recipe, "console"):
        return []
    options = {"mode": "json"} if mode == "json" else {}
    return [msgspec.convert(options, spec).build(Run(recipe.name, journal.folder, recipe.seed, Bus()))]


def _last_words(recipe: Recipe, journal: Journal, status: str, mode: Mode) -> None:
    """Where to look and what to do next: a run's result, so it goes to stdout, unless that is for JSON."""
    words = [("run folder", str(journal.folder))]
    for phase in recipe.phases:
        kept = journal.phase(phase.name)
        words += [(path.name, str(path)) for path in (kept.model, kept.data) if path.exists()]
    words += [("tracking", address) for address in _tracking(recipe)]
    if status == "interrupted":
        words.append(("to go on", f"truing resume {journal.folder}"))
    if mode == "quiet":
        print(journal.folder)
        return
    for what, where in words:
        print(f"{what:<12}{where}", file=sys.stderr if mode == "json" else sys.stdout)


def _tracking(recipe: Recipe) -> list[str]:
    """Where MLflow shows the run: a server's address, or the command that serves a file."""
    told: list[str] = [getattr(spec, "tracking_uri", "") for spec in recipe.observers if spec.name == "mlflow"]
    uris = [uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db" for uri in told]
    public = [re.sub(r"(?<=://)[^/@]*@", "", uri) for uri in uris]
    return [uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}" for uri in public]


def _leave() -> NoReturn:
    """Leave now: a thread that was still building something when the run was interrupted is not waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)

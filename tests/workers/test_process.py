"""A generator in a process of its own: the same answers, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.generate.conftest import Told

from truing.errors import RunFailed, UserError
from truing.fields import COMPLETIONS, TOKENS, VERSION, Batch

pytest.importorskip("torch")

from truing_workers import process as parent
from truing_workers.plugin import Process

from .stages import KNOWN, OBJECT, Numbers, Obedient, asked

SECONDS = 60.0


class Scene:
    """A generator in a process, the run it belongs to, and the files that tell it what to do."""

    def __init__(self, folder: Path, **options: Any) -> None:
        folder.mkdir()
        self.folder, self.told = folder, Told(folder)
        self.process: Any = Process(generator=Obedient(), threads=1, **options).build(self.told.run)

    def kill(self) -> None:
        os.kill(self.process.worker.pid, signal.SIGKILL)

    async def begun(self, mark: str) -> None:
        """Wait until the process has begun."""
        with anyio.fail_after(SECONDS):
            while not (self.folder / mark).exists():
                await anyio.sleep(0.01)
        (self.folder / mark).unlink()

    def end(self) -> None:
        for end in self.told.run.ends:
            end()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("process") / "run", restarts=5)
    yield made
    made.end()
    assert made.process.worker.over.is_set()


@pytest.fixture(autouse=True)
def fresh(scene: Scene) -> None:
    """No file tells the process anything, and it has the weights of version 0."""
    for name in ("hold", "slow", "taking", "writing"):
        (scene.folder / name).unlink(missing_ok=True)
    scene.told.events.clear()
    anyio.run(scene.process.sync_weights, Numbers(0, 3.0, held_to=5.0))


def tokens(batch: Batch) -> list[list[int]]:
    """Of each completion: its seed, the version, and what was read of the weights and of the reference."""
    flat = batch[TOKENS].tolist()
    return [flat[at : at + 4] for at in range(0, len(flat), 4)]


def test_what_is_sampled_there_is_sampled_from_the_weights_and_seeds_that_were_given(scene: Scene) -> None:
    made: Batch = anyio.run(scene.process.generate, asked("a", "b"))
    assert made[COMPLETIONS] == ["say a!", "say b!"]
    assert tokens(made) == [[7, 0, 6, 10], [8, 0, 6, 10]]
    assert made[KNOWN] == [OBJECT, OBJECT], "what nobody needs there stays here as it is"
    assert scene.told.notices == ["asked for a"]


def test_what_it_raises_is_raised_here(scene: Scene) -> None:
    with pytest.raises(UserError) as told:
        anyio.run(scene.process.generate, asked("user"))
    assert [(each.where, each.mend) for each in told.value.problems] == [("here", "mend it"), ("there", "")]
    with pytest.raises(RunFailed, match=r"^KeyError: 'odd'$"):
        anyio.run(scene.process.generate, asked("odd"))
    assert "raise KeyError" in (scene.folder / "generator.log").read_text()


def test_killed_while_it_samples_or_takes_weights_or_waits_it_is_asked_again_and_nothing_is_lost(scene: Scene) -> None:
    answers: dict[str, list[list[int]]] = {}

    async def ask(name: str) -> None:
        answers[name] = tokens(await scene.process.generate(asked(name)))

    async def go() -> None:
        async with anyio.create_task_group() as tasks:
            (scene.folder / "hold").touch()
            tasks.start_soon(ask, "while it samples")
            await scene.begun("writing")
            scene.kill()
            (scene.folder / "hold").unlink()
        async with anyio.create_task_group() as tasks:
            (scene.folder / "slow").touch()
            await scene.process.sync_weights(Numbers(1, 4.0))
            tasks.start_soon(ask, "while it takes weights")
            await scene.begun("taking")
            scene.kill()
            (scene.folder / "slow").unlink()
        scene.kill()
        await scene.process.sync_weights(Numbers(2, 8.0))
        await ask("between")

    before = scene.process.deaths
    anyio.run(go)
    assert answers == {
        "while it samples": [[7, 0, 6, 10]],
        "while it takes weights": [[7, 1, 8, 10]],
        "between": [[7, 2, 16, 10]],
    }
    assert scene.process.deaths == before + 3
    (first, *_) = [text for text in scene.told.notices if "started again" in text]
    assert "was ended by SIGKILL and is started again with the newest weights, 1 of 5" in first


def test_new_weights_do_not_wait_for_sampling_and_are_never_written_over_before_they_were_read(scene: Scene) -> None:
    done: list[str] = []
    answers: dict[str, list[int]] = {}

    async def marked(name: str, work: Callable[[], Awaitable[Any]]) -> None:
        made = await work()
        done.append(name)
        if made is not None:
            answers[name] = made[VERSION].tolist()

    async def go() -> None:
        (scene.folder / "hold").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(marked, "asked", lambda: scene.process.generate(asked("a")))
            await scene.begun("writing")
            await marked("first", lambda: scene.process.sync_weights(Numbers(1, 1.0)))
            tasks.start_soon(marked, "after", lambda: scene.process.generate(asked("b")))
            await anyio.sleep(0.1)
            await marked("second", lambda: scene.process.sync_weights(Numbers(2, 2.0)))
            tasks.start_soon(marked, "third", lambda: scene.process.sync_weights(Numbers(3, 3.0)))
            await anyio.sleep(0.3)
            assert done == ["first", "second"], "its copy holds weights that were told of and not read"
            (scene.folder / "hold").unlink()
        assert tokens(await scene.process.generate(asked("c"))) == [[7, 3, 6, 10]]

    anyio.run(go)
    assert answers == {"asked": [0], "after": [1]}


def test_who_does_not_wait_any_more_is_not_in_the_way_of_others(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def given_up(name: str) -> None:
        with anyio.move_on_after(0.5) as patience:
            await scene.process.generate(asked(name))
        assert patience.cancelled_caught

    async def go() -> None:
        (scene.folder / "hold").touch()
        await given_up("a")
        (scene.folder / "hold").unlink()
        assert scene.process.deaths == before
        assert tokens(await scene.process.generate(asked("b"))) == [[7, 0, 6, 10]]
        monkeypatch.setattr(parent, "_LET_GO_SECONDS", 0.2)
        await given_up("deaf")
        assert tokens(await scene.process.generate(asked("c"))) == [[7, 0, 6, 10]]

    before = scene.process.deaths
    anyio.run(go)
    assert scene.process.deaths == before + 1
    assert "it did not let go of what nobody waited for" in "".join(scene.told.notices)


PARENT = """
import sys, time
from pathlib import Path
import anyio
from tests.workers.stages import Numbers
from tests.workers.test_process import Scene, asked
scene = Scene(Path(sys.argv[1]))
anyio.run(scene.process.sync_weights, Numbers(0, held_to=1.0))
print(scene.process.worker.pid, flush=True)
anyio.run(scene.process.generate, asked("deaf"))
"""


def test_when_the_run_is_killed_its_process_ends_even_amid_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout
        child = int(run.stdout.readline())
        time.sleep(0.2)
        run.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_a_log_that_cannot_be_opened_ends_the_run_in_words_and_leaves_nothing_open(tmp_path: Path) -> None:
    told, files = Told(tmp_path), Path("/proc/self/fd")
    (tmp_path / "generator.log").mkdir()
    before = len(list(files.iterdir()))
    with pytest.raises(RunFailed, match=r"cannot write .*generator\.log: Is a directory"):
        Process(generator=Obedient()).build(told.run)
    for end in told.run.ends:
        end()
    assert len(list(files.iterdir())) == before


def test_past_its_budget_of_restarts_the_run_ends_and_says_why(scene: Scene) -> None:
    anyio.run(scene.process.generate, asked("a"))
    scene.process.deaths = 5
    scene.kill()
    with pytest.raises(UserError) as told:
        anyio.run(scene.process.generate, asked("b"))
    (problem,) = told.value.problems
    assert problem.what.endswith("was ended by SIGKILL; it died 6 times, and restarts = 5 allows no more")
    assert "too much memory" in problem.mend
    assert "somebody asked" in problem.mend

"""The run folder: whole or not there, and true about itself."""

from __future__ import annotations

import errno
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from truing.errors import RunFailed, UserError
from truing.events import Event, Notice, RunEnded
from truing.journal import Journal, PhaseFolder, Position
from truing.recipe import Recipe
from truing.testing import TOY_RECIPE
from truing.whole import write_whole

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def journal(folder: Path, recipe: MakeRecipe) -> Journal:
    return Journal.create(folder, recipe(TOY_RECIPE), {"truing": "1"})


def position(step: int) -> Position:
    return Position(step=step, read=step)


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_text("whole")


def test_a_new_run_says_what_it_is_without_truing(journal: Journal) -> None:
    said = json.loads((journal.folder / "run.json").read_text())
    assert (said["name"], said["status"], said["pid"], said["format"]) == ("toy", "running", os.getpid(), 1)
    assert said["versions"] == {"truing": "1"}
    assert "truing resume" in said["about"]
    assert (journal.folder / "recipe.toml").read_text() == TOY_RECIPE
    assert tomllib.loads((journal.folder / "resolved.toml").read_text())["loop"]["keep"] == 2
    assert not list(journal.folder.glob("*.new"))


def test_two_runs_of_one_second_have_two_folders(folder: Path, recipe: MakeRecipe) -> None:
    made = {Journal.create(folder, recipe(TOY_RECIPE), {}).folder for _ in range(5)}
    assert len(made) == 5


def test_marking_a_run_changes_its_status_and_owner_alone(journal: Journal) -> None:
    before = journal.read()
    journal.write(msgspec.structs.replace(before, pid=1, host="elsewhere"))
    journal.mark("interrupted", "lunch")
    assert journal.read() == msgspec.structs.replace(before, status="interrupted", reason="lunch")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json", b'{"name": "x"}'])
def test_a_folder_without_a_sound_run_json_is_no_run_folder(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match="this is no run folder"):
        Journal(tmp_path).read()


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_was_saved_is_the_newest(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    assert folder.newest() == (None, [])
    path = folder.save(position(3), write, keep=2)
    assert folder.newest() == ((path, position(3)), [])
    assert (path / "inner" / "weights").read_text() == "whole"


def test_a_crash_inside_a_checkpoint_leaves_the_one_before_as_the_newest(tmp_path: Path) -> None:
    def crash(folder: Path) -> None:
        write(folder)
        raise RuntimeError("power")

    folder = PhaseFolder(tmp_path)
    folder.save(position(1), write, keep=1)
    with pytest.raises(RuntimeError, match="power"):
        folder.save(position(2), crash, keep=1)
    found, _ = folder.newest()
    assert found
    assert found[1] == position(1)
    folder.save(position(2), write, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_the_newest_checkpoints_are_kept_also_beyond_a_million_steps(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    for step in (9, 10, 999_999, 1_000_000):
        folder.save(position(step), write, keep=2)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-999999", "step-1000000"}
    found, _ = folder.newest()
    assert found
    assert found[1].step == 1_000_000


def test_a_phase_that_is_done_keeps_no_checkpoints(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    folder.save(position(1), write, keep=1)
    folder.forget()
    assert folder.newest() == (None, [])
    folder.forget()


def test_a_folder_written_again_is_replaced_and_not_mixed(tmp_path: Path) -> None:
    write_whole(tmp_path / "model", lambda folder: (folder / "old").touch())
    write_whole(tmp_path / "model", lambda folder: (folder / "new").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]


def test_what_an_earlier_crash_left_half_written_is_no_part_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "half").touch()
    write_whole(tmp_path / "model", write)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["inner"]
    assert not (tmp_path / "model.part").exists()


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_read_as_they_were_written(journal: Journal) -> None:
    written: list[Event] = [Notice(text="ünï\n\u2028", number=0), RunEnded(status="finished", number=1)]
    for event in written:
        journal.record(event)
    assert list(journal.events()) == list(enumerate(written))
    assert list(journal.events(1)) == [(1, written[1])]
    assert journal.count() == 2


@pytest.mark.parametrize("cut", range(2, 60, 3))
def test_a_torn_last_line_is_left_out_and_what_follows_stands_by_itself(journal: Journal, cut: int) -> None:
    for text in ("a", "ö" * 20):
        journal.record(Notice(text=text))
    path = journal.folder / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [number for number, _ in journal.events()] == [0]
    assert journal.count() == 2
    journal.record(Notice(text="c"))
    assert [(number, event.text) for number, event in journal.events() if isinstance(event, Notice)] == [
        (0, "a"),
        (2, "c"),
    ]
    assert journal.count() == 3


def test_events_of_a_plugin_that_is_not_here_are_left_out(journal: Journal) -> None:
    journal.record(Notice(text="a"))
    with (journal.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"type": "FromElsewhere", "number": 1}\n')
    journal.record(Notice(text="b"))
    assert [number for number, _ in journal.events()] == [0, 2]


def test_a_run_without_events_has_none(journal: Journal) -> None:
    assert (list(journal.events()), journal.count()) == ([], 0)


# --- disks that are full ----------------------------------------------------------------------------------------------


def test_a_place_where_no_folder_can_be_made_is_the_users_to_mend(tmp_path: Path, recipe: MakeRecipe) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as told:
        Journal.create(tmp_path / "file", recipe(TOY_RECIPE), {})
    (problem,) = told.value.problems
    assert problem.what == "cannot keep a run here: Not a directory"
    assert "--folder" in problem.mend


def test_a_full_disk_ends_the_run_with_its_reason(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(RunFailed, match=r"cannot write .*events\.jsonl: No space left"):
            journal.record(Notice(text="a"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(RunFailed, match=r"cannot write .*run\.json: No space left"):
            journal.mark("finished")
    with pytest.raises(RunFailed, match=r"cannot write .*step-000001: No space left"):
        PhaseFolder(tmp_path / "phase").save(position(1), full, keep=1)
    assert not list((tmp_path / "phase" / "checkpoints").iterdir())
    assert journal.read().status == "running"


def test_an_event_of_which_only_a_part_was_written_takes_no_other_with_it(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    journal, limits = Journal(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    journal.record(Notice(text="one"))
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "events.jsonl").stat().st_size + 9, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(RunFailed, match="cannot write"):
                journal.record(Notice(text="two"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.record(Notice(text="three"))
    journal.record(Notice(text="four"))
    assert [event.text for _, event in Journal(tmp_path).events()] == ["one", "three", "four"]  # type: ignore
    assert Journal(tmp_path).spoiled() == [2]

"""Bytes that flip on a disk: in a checkpoint they are found, in a journal they cost the line they are in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from truing.errors import RunFailed, UserError
from truing.events import Notice, StepDone
from truing.journal import Journal, PhaseFolder, Position
from truing.testing import TOY_RECIPE, TOYS, recipe, run_recipe
from truing.whole import sum_up, write_whole

FLIPS = 100


def flips(content: bytes) -> Iterator[bytes]:
    """The content with one byte that is another, again and again."""
    chance = random.Random(0)
    for _ in range(FLIPS):
        spoiled = bytearray(content)
        spoiled[chance.randrange(len(spoiled))] ^= chance.randrange(1, 256)
        yield bytes(spoiled)


@pytest.mark.parametrize("name", ["weights", "position.json"])
def test_a_checkpoint_with_a_byte_that_is_another_is_never_gone_on_from(name: str, tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    file = folder.save(Position(step=1), lambda to: (to / "weights").write_bytes(bytes(400)), keep=1) / name
    for spoiled in flips(file.read_bytes()):
        file.write_bytes(spoiled)
        with pytest.raises(RunFailed, match=f"{name} is not what was written"):
            folder.newest()


def test_a_byte_of_a_journal_that_is_another_costs_the_lines_it_is_in(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 9):
        journal.record(Notice(phase="première", text=f"étape {step}"))
    file = tmp_path / "events.jsonl"
    for spoiled in flips(file.read_bytes()):
        file.write_bytes(spoiled)
        assert 6 <= len(list(Journal(tmp_path).events())) <= 8, spoiled


def test_a_run_json_with_a_byte_that_is_another_is_refused_or_says_the_same(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, recipe(TOY_RECIPE, *TOYS), {"pérsona": "1"})
    file, whole = journal.folder / "run.json", journal.read()
    refused = 0
    for spoiled in flips(file.read_bytes()):
        file.write_bytes(spoiled)
        try:
            # A space may be another, and so may the name of the sum itself.
            assert journal.read() == whole
        except UserError as error:
            refused += "run.json" in str(error)
    assert refused > 0.8 * FLIPS


def test_a_byte_of_a_journal_that_is_another_is_told_by_the_number_of_its_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 9):
        journal.record(StepDone(phase="", step=step, steps=8, epoch=0, metrics={"loss": step / 7}))
    file = tmp_path / "events.jsonl"
    whole, events = file.read_bytes(), [event for _, event in Journal(tmp_path).events()]
    for spoiled in flips(whole):
        file.write_bytes(spoiled)
        at = next(at for at, (one, other) in enumerate(zip(whole, spoiled, strict=True)) if one != other)
        line = whole[:at].count(b"\n") + 1
        left = [event for _, event in Journal(tmp_path).events()]
        assert all(event in events for event in left), "none is taken for another"
        assert len(left) == len(events) or line in Journal(tmp_path).spoiled()


@pytest.mark.parametrize("name", ["model", "data"])
def test_what_a_phase_made_is_held_to_its_sums_before_a_resume_builds_on_it(name: str, tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    file = tmp_path / name / "content"

    def write(to: Path) -> None:
        (to / "content").write_bytes(bytes(400))
        sum_up(to)

    write_whole(tmp_path / name, write)
    folder.verify()
    (tmp_path / name / "README.md").write_text("what people put beside it is no harm")
    folder.verify()
    for spoiled in flips(file.read_bytes()):
        file.write_bytes(spoiled)
        with pytest.raises(RunFailed, match=f"{name} is not what this run made.*content is not what was written"):
            folder.verify()


def test_a_byte_of_data_under_way_that_is_another_ends_a_resume_with_the_line(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path)
    for batch in (b'[{"id":"a","score":0.5}]', b"[]", b'[{"id":"b","score":1.5}]'):
        folder.add(batch)
    file = tmp_path / "batches.jsonl"
    whole = file.read_bytes()
    assert folder.batches() == 3
    for spoiled in flips(whole[:-1]):
        file.write_bytes(spoiled + b"\n")
        for use in (folder.batches, folder.finish):
            with pytest.raises(RunFailed, match=r"batches\.jsonl:\d is not what was written; remove the file"):
                use()


def test_a_resume_says_what_of_the_journal_and_of_the_recipe_is_not_what_it_was(tmp_path: Path) -> None:
    failing = recipe(TOY_RECIPE, *TOYS, overrides=["loop.checkpoint_every=1", "model.fail_at=3"])
    with pytest.raises(RuntimeError):
        run_recipe(failing, tmp_path)
    (folder,) = tmp_path.iterdir()
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"toy", b"tod", 1)
    (folder / "events.jsonl").write_bytes(b"".join(lines))
    again = run_recipe(recipe(TOY_RECIPE, *TOYS), folder, resumed=True)
    told = [event.text for event in again.events if isinstance(event, Notice)]
    assert told[0] == "events.jsonl: these lines were torn or are not what was written, and are left out: [2]"
    assert told[1].startswith("resolved.toml: it is another recipe")


def test_a_resume_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_recipe(recipe(TOY_RECIPE, *TOYS, overrides=["model.fail_at=3"]), tmp_path)
    (folder,) = tmp_path.iterdir()
    with pytest.raises(UserError, match="the source has the digest toy-7, and had toy-8 when this run began"):
        run_recipe(recipe(TOY_RECIPE, *TOYS, overrides=["source.groups=7"]), folder, resumed=True)

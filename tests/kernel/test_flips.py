"""Bytes that flip on a disk: in a checkpoint they are found, in a journal they cost the line they are in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from truing.errors import RunFailed, UserError
from truing.events import Notice
from truing.journal import Journal, PhaseFolder, Position

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


def test_a_run_json_with_a_byte_that_is_another_is_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    whole = '{"name":"pérsona","status":"failed","started":"","pid":1,"host":"","place":"","digest":"","versions":{}}'
    for spoiled in flips(whole.encode()):
        file.write_bytes(spoiled)
        with suppress(UserError):
            Journal(tmp_path).read()

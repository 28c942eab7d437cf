"""Processes that a run starts: they are made of what is installed, whatever lies in the folder it is started in."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from truing_workers.worker import Worker

TRAP = "import pathlib\npathlib.Path({mark!r}).touch()\n"


def test_a_module_in_the_folder_of_a_recipe_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe comes with a folder, and who runs it there runs nothing else that is in it."""
    mark = tmp_path / "executed"
    for name in ("torch", "msgspec", "anyio", "typing", "truing_workers/__init__"):
        file = tmp_path / "cloned" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TRAP.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path / "cloned")
    worker = Worker(tmp_path / "log", [], {})
    worker.end()
    assert not mark.exists()

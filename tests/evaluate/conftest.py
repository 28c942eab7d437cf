"""What the tests of evaluating share: files of scored rows, real data where it is, and ways to call the commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from truing.cli import main

pytest.importorskip("numpy", reason="numpy is not installed: pip install -e '.[evaluate]'")

SHARED = Path(__file__).parents[3] / "shared" / "data"

Write = Callable[..., Path]


class Said(NamedTuple):
    """How a call of the command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Said]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows to a file. A row without them gets an id, a prompt and completions."""

    def made(rows: Iterable[Mapping[str, Any]], name: str = "groups.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {"prompt": "?", "completions": ["one", "another"]}
        lines = [json.dumps({"id": str(at), **plain, **row}) for at, row in enumerate(rows)]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return made


@pytest.fixture
def truing(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command in this process."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert isinstance(end.value.code, int | None)
        return Said(end.value.code or 0, *capsys.readouterr())

    return call


def shared(name: str) -> list[dict[str, Any]]:
    """The rows of a file of real data; the test is skipped where it is not."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {path}: real data is not part of the project")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

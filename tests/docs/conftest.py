"""What the tests of the documentation share: its pages, the blocks in them, and a folder to try them in."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]

_BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^(?P<fence>```+)(?P<info>[^\n`]+)\n(?P<text>.*?)^(?P=fence)$", re.M | re.S
)


class Command(NamedTuple):
    """A command of a console block, and the lines that should follow it."""

    words: list[str]
    output: list[str]


class Block(NamedTuple):
    """One fenced block. file: what it is called where others need it."""

    page: Path
    line: int
    info: str
    text: str
    file: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[Command]:
        """The calls of `truing` in a console block, or in a script of plain lines."""
        found: list[Command] = []
        for line in self.text.splitlines():
            if self.info == "sh" or line.startswith("$ "):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["truing"]:
                    found.append(Command(words[1:], []))
            elif found:
                found[-1].output.append(line)
        return found


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, from its top to its end."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("fence")) + 1
        yield Block(page, line, found["info"].strip(), found["text"], found["file"])


def blocks(*infos: str) -> list[Block]:
    """All blocks of all pages that are marked so."""
    return [block for page in PAGES for block in blocks_of(page) if block.info in infos]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone, with the files of a page in it, and gone to. The parameter: the page or a block of it."""
    what = request.param
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for block in blocks_of(what.page if isinstance(what, Block) else what):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with every warning an error."""
    for needed in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -e '.[docs]'", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-E", "-b", "html"]
    said = subprocess.run([*command, DOCS, folder], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return folder

"""What the pages show works: recipes load, commands run and say what is shown, Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from truing.cli import main
from truing.plugins import discover
from truing.recipe import load

from .conftest import DOCS, PAGES, ROOT, Block, Command, blocks, blocks_of

CHEAP = (
    "audit",
    "check",
    "data",
    "evaluate",
    "init",
    "list",
    "measure",
    "overoptimize",
    "plugins",
    "schema",
    "select",
    "show",
    "simulate",
    "version",
)
RUN_FOR_REAL = "recipes/tiny/quickstart.toml"

RECIPES = blocks("toml")
FRAGMENTS = blocks("toml fragment")
SCRIPTS = blocks("python")
WITH_COMMANDS = sorted({block.page for block in blocks("console", "sh") if block.commands()})


def twice(some: Sequence[Any]) -> list[Any]:
    """The block or page to try, and the folder to try it in."""
    return [pytest.param(one, one, id=str(one) if isinstance(one, Block) else one.stem) for one in some]


@pytest.mark.parametrize(("block", "place"), twice(RECIPES), indirect=["place"])
def test_a_recipe_on_a_page_is_valid(block: Block, place: Path) -> None:
    recipe = place / "recipe.toml"
    recipe.write_text(block.text, encoding="utf-8")
    assert load(recipe, discover()).phases


@pytest.mark.parametrize("block", FRAGMENTS, ids=str)
def test_a_piece_of_a_recipe_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_every_block_is_of_a_kind_that_is_tested_or_is_plain_text() -> None:
    known = {"toml", "toml fragment", "python", "console", "sh", "text", "json", "{toctree}"}
    strays = [f"{block}: {block.info}" for page in PAGES for block in blocks_of(page) if block.info not in known]
    assert not strays


@pytest.mark.parametrize(("page", "place"), twice(WITH_COMMANDS), indirect=["place"])
def test_commands_on_a_page_run_and_say_what_is_shown(
    page: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for block in blocks_of(page):
        if block.info in ("console", "sh"):
            for command in block.commands():
                status, said = called(command.words, capsys)
                assert status == 0 or command.output, f"{block}: {command.words} left with {status}: {said}"
                if command.words[0] in CHEAP:
                    appears(command.output, said, str(block))


@pytest.mark.slow
@pytest.mark.parametrize("place", [DOCS / "tutorial" / "first-run.md"], indirect=True)
def test_the_first_run_of_the_tutorial_goes_as_shown(place: Path) -> None:
    shown = [
        command
        for block in blocks_of(DOCS / "tutorial" / "first-run.md")
        for command in block.commands()
        if command.words[:2] == ["run", RUN_FOR_REAL]
    ]
    assert len(shown) == 1
    told = python("-m", "truing", *shown[0].words)
    appears([re.sub(r"[\d.-]*\d", "7", line) for line in shown[0].output], re.sub(r"[\d.-]*\d", "7", told), "first-run")
    folder = next((place / "runs").iterdir())
    assert (folder / "dpo" / "model" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("block", "place"), twice(SCRIPTS), indirect=["place"])
def test_python_on_a_page_runs(block: Block, place: Path) -> None:
    python("-W", "error", "-c", block.text)


def test_the_recipe_of_the_readme_with_a_typing_mistake_says_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = list(blocks_of(ROOT / "README.md"))
    recipe = next(block.text for block in shown if block.info == "toml")
    message = next(block.text for block in shown if block.text.startswith("recipe.toml:"))
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(recipe.replace("beta =", "bta ="), encoding="utf-8")
    assert called(["check", "recipe.toml"], capsys) == (2, message)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def called(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Call a cheap command and give status and words; of any other, see whether it is one and takes these options."""
    import typer.main

    from truing.cli.app import app

    if words[0] in CHEAP:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out + captured.err
    group: Any = typer.main.get_command(app)
    assert words[0] in group.commands, f"no command called {words[0]}"
    group.commands[words[0]].make_context(words[0], list(words[1:]))
    if words[0] == "run" and Path(words[1]).exists():
        return called(["check", *words[1:]], capsys)
    return 0, ""


def appears(lines: Sequence[str], said: str, where: str) -> None:
    """Every line is said, in this order; `...` stands for anything."""
    pattern = r"(?:.*\n)*?".join(
        r"\s*" + ".*".join(re.escape(part.strip()) for part in line.split("...")) + r"\s*\n"
        for line in lines
        if line.strip() not in ("", "...")
    )
    assert re.search("(?m)^" + pattern, said), f"{where} shows\n{chr(10).join(lines)}\nand this was said:\n{said}"


def python(*arguments: str) -> str:
    """Run Python and give what it said. Fails with that if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("words", [["check", "a.toml", "--sett", "a.b=1"], ["list", "nonsense"]], ids=" ".join)
def test_a_cheap_command_that_is_wrong_is_noticed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(words, capsys)[0] == 2


@pytest.mark.parametrize("words", [["run", "a.toml", "--sett", "a.b=1"], ["resume"]], ids=" ".join)
def test_a_costly_command_that_is_wrong_is_noticed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match=r"--sett|folder"):
        called(words, capsys)


def test_output_that_is_shown_and_not_said_is_noticed() -> None:
    appears(["a ... c", "...", "e"], "0\na b c\nd\ne\n", "here")
    with pytest.raises(AssertionError, match="and this was said"):
        appears(["a", "c"], "a\nb\n", "here")


def test_a_console_block_is_taken_apart_into_commands_and_output() -> None:
    block = Block(DOCS, 1, "console", "$ truing list\nA  B\n$ ls\n$ truing version\n", None)
    assert block.commands() == [Command(["list"], ["A  B"]), Command(["version"], [])]

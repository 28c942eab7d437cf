"""The house rules: who may import whom, what a menu costs, and how long a file may be."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "core" / "truing"
PLUGINS = ROOT / "plugins"

FLOORS = (
    ("errors", "fields", "events"),
    ("toml", "bus", "until", "protocols", "groups", "script", "whole"),
    ("run",),
    ("stage", "attempts"),
    ("registry",),
    ("plugins",),
    ("recipe",),
    ("check", "journal", "sampling"),
    ("reading", "replay"),
    ("loop", "collect", "looking"),
    ("offline", "online"),
    ("conduct",),
    ("testing",),
    ("cli",),
)
"""The kernel from the ground up: a module imports from the floors below its own."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
STAIRS = {("recipe", "check")}
"""The one import that goes up, inside a function: reading a recipe ends with checking it."""
ALLOWED = {"anyio", "msgspec", "pluggy", "truing"}
ONLY_TYPED = {"torch"}
HEAVY = ("torch", "transformers", "mlflow", "accelerate", "peft", "datasets", "pyarrow", "numpy", "reasoning_gym")
SHARED = ("truing_tensor", "truing_remote", "truing_texts", "truing_reports")
"""Folders beside the plugins that are none: what plugins share. Addresses and options of servers are light, and so are
constitutions."""
LONGEST_FILE, LONGEST_FUNCTION = 400, 50
KERNEL_LINES = 2970
"""What it is spent on, and why it is spent inside: docs/decisions/0015-what-is-inside.md."""


class Import(NamedTuple):
    """One import of a module. lazy: inside a function. typed: seen by type checkers alone."""

    module: str
    line: int
    lazy: bool
    typed: bool


def imports(path: Path, package: str) -> Iterator[Import]:
    """Every import of a file, those inside functions and under TYPE_CHECKING included."""

    def walk(node: ast.AST, lazy: bool, typed: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield Import(name.name, child.lineno, lazy, typed)
            elif isinstance(child, ast.ImportFrom):
                base = resolve_name("." * child.level + (child.module or ""), package) if child.level else child.module
                for name in child.names:
                    yield Import(f"{base}.{name.name}", child.lineno, lazy, typed)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for inner in child.body:
                    yield from walk(ast.Module([inner], []), lazy, True)
                for inner in child.orelse:
                    yield from walk(ast.Module([inner], []), lazy, typed)
            else:
                inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, inside, typed)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


def sources(folder: Path) -> list[Path]:
    """The Python files of a folder, what `truing init` copies for newcomers left out."""
    return sorted(path for path in folder.rglob("*.py") if "template" not in path.relative_to(folder).parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def kernel_part(path: Path) -> str:
    """The part of the kernel a file belongs to: `recipe`, or `cli` for all of it."""
    inside = path.relative_to(KERNEL)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


KERNEL_FILES = sources(KERNEL)
PLUGIN_FILES = sources(PLUGINS)
BELOW_THE_COMMAND = [path for path in KERNEL_FILES if kernel_part(path) not in ("cli", "__init__", "__main__")]
HEART = [path for path in BELOW_THE_COMMAND if kernel_part(path) != "testing"]


# --- who may import whom ----------------------------------------------------------------------------------------------


def test_every_part_of_the_kernel_has_its_floor() -> None:
    assert {kernel_part(path) for path in KERNEL_FILES} - {"__init__", "__main__"} == set(FLOOR)


@pytest.mark.parametrize("path", BELOW_THE_COMMAND, ids=kernel_part)
def test_the_kernel_imports_from_lower_floors_only(path: Path) -> None:
    part = kernel_part(path)
    for found in imports(path, "truing"):
        if not found.module.startswith("truing."):
            continue
        target = found.module.split(".")[1]
        if found.lazy and (part, target) in STAIRS:
            continue
        where = f"{name_of(path)}:{found.line}"
        assert target in FLOOR, f"{where} imports {found.module} through the face of the package"
        assert FLOOR[target] < FLOOR[part], f"{where}: {part} (floor {FLOOR[part]}) imports {target} ({FLOOR[target]})"


def test_no_import_goes_in_a_circle() -> None:
    below: dict[str, set[str]] = {}
    for path in KERNEL_FILES:
        module = "truing." + ".".join(path.relative_to(KERNEL).with_suffix("").parts)
        package = module.rpartition(".")[0] if path.name != "__init__.py" else module.removesuffix(".__init__")
        known = {f"truing.{'.'.join(other.relative_to(KERNEL).with_suffix('').parts)}" for other in KERNEL_FILES}
        targets: set[str] = set()
        for found in imports(path, package):
            if not found.lazy and not found.typed:
                targets |= {name for name in (found.module, found.module.rpartition(".")[0]) if name in known}
        below[module] = targets
    while free := [module for module, targets in below.items() if not targets & below.keys()]:
        for module in free:
            del below[module]
    assert not below, f"these import each other: {below}"


@pytest.mark.parametrize("path", BELOW_THE_COMMAND, ids=kernel_part)
def test_the_kernel_stands_on_three_libraries(path: Path) -> None:
    for found in imports(path, "truing"):
        top = found.module.partition(".")[0]
        fine = top in sys.stdlib_module_names or top in ALLOWED or (found.typed and top in ONLY_TYPED)
        assert fine, f"{name_of(path)}:{found.line} imports {found.module}"


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=name_of)
def test_a_plugin_knows_no_other_plugin(path: Path) -> None:
    own = path.relative_to(PLUGINS).parts[0]
    others = {folder.name for folder in PLUGINS.iterdir() if folder.is_dir()} - {own, *SHARED}
    for found in imports(path, own):
        top = found.module.partition(".")[0]
        assert top not in others, f"{name_of(path)}:{found.line}: {own} imports {found.module}"
        assert not found.module.startswith("truing.cli"), f"{name_of(path)}:{found.line} imports the command"


@pytest.mark.parametrize("name", SHARED)
def test_what_plugins_share_knows_no_plugin(name: str) -> None:
    assert {top for top in _tops(PLUGINS / name) if top.startswith("truing_")} <= {name}


def _tops(folder: Path) -> set[str]:
    return {found.module.partition(".")[0] for path in sources(folder) for found in imports(path, folder.name)}


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*/plugin.py")), ids=name_of)
def test_a_menu_imports_the_kernel_msgspec_and_its_own_plugin(path: Path) -> None:
    allowed = {"truing", "msgspec", path.parent.name, "truing_remote", "truing_texts"}
    for found in imports(path, path.parent.name):
        top = found.module.partition(".")[0]
        assert top in sys.stdlib_module_names or top in allowed, f"{name_of(path)}:{found.line} imports {found.module}"


# --- what a menu costs ------------------------------------------------------------------------------------------------

WATCH = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY and name not in seen:
            seen[name] = chain()
        return None

def chain():
    frame, names = sys._getframe(2), []
    while frame:
        name = frame.f_globals.get("__name__", "?")
        if not name.startswith(("importlib", "_frozen_importlib")) and name not in names[-1:]:
            names.append(name)
        frame = frame.f_back
    return " > ".join(reversed(names))

seen = {}
HEAVY = %r
sys.meta_path.insert(0, Watch())
"""

LOOK = """
for name in HEAVY:
    if name in sys.modules:
        print(f"{name}: {seen.get(name, '?')} > {name}")
"""


def heavy_imports(code: str) -> list[str]:
    """What some code imports that it should not, each with the chain of modules that led to it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WATCH % (HEAVY,) + code + LOOK]
    asked = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.splitlines()


def test_the_watch_names_who_imported_a_heavy_library() -> None:
    (found,) = heavy_imports("HEAVY = ('truing.journal',)\nimport truing.loop\n")
    assert found.startswith("truing.journal: ")
    assert "truing.loop" in found


def test_the_face_of_the_package_and_every_menu_import_nothing_heavy() -> None:
    menus = [f"{path.parent.name}.plugin" for path in sorted(PLUGINS.glob("*/plugin.py"))]
    assert len(menus) >= 5
    assert heavy_imports("import truing, " + ", ".join(menus) + "\n") == []


def test_loading_every_recipe_imports_nothing_heavy() -> None:
    code = """
from pathlib import Path
from truing.errors import UserError
from truing.plugins import discover
from truing.recipe import load
plugins = discover()
paths = sorted(Path("recipes").rglob("*.toml"))
assert paths
for path in paths:
    try:
        load(path, plugins)
    except UserError:
        pass
"""
    assert heavy_imports(code) == []


# --- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*KERNEL_FILES, *PLUGIN_FILES], ids=name_of)
def test_a_file_can_be_read_from_top_to_bottom(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{name_of(path)} has {lines} lines; a room is missing"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name_of(path)}:{node.lineno}: {node.name} has {length} lines"


def statements(path: Path) -> int:
    """Logical lines of code: what a formatter cannot make more of. No blanks, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    docs = {
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    count, fresh, skip = 0, True, {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE:
            fresh = True
        elif token.type not in skip and fresh:
            count, fresh = count + (token.start[0] not in docs), False
    return count


def kernel_lines() -> int:
    """Lines of code of the kernel, its table printed."""
    table = {kernel_part(path): statements(path) for path in HEART}
    for name, lines in {**table, "all": sum(table.values())}.items():
        print(f"{name:>10} {lines:5d}")
    return sum(table.values())


def test_the_kernel_grows_no_further() -> None:
    assert kernel_lines() <= KERNEL_LINES, "take code out of the kernel, or give it a room outside"


def test_lines_of_code_are_counted_without_what_is_written_for_people(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text('"""Doc\n\nmore."""\n\n# why\nx = [\n    1,\n]\n\n\ndef f():\n    """Doc."""\n    return x\n')
    assert statements(path) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=name_of)
def test_what_is_run_by_hand_is_still_there_to_run(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    asked = subprocess.run(
        [sys.executable, "-c", f"import {module}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr

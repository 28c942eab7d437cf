"""Fields, events, hooks, commands, the skeleton of a plugin and pictures, as the code tells them."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import itertools
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from catalogue import rows_of

from truing import events as happened, fields as vocabulary
from truing.events import Event
from truing.fields import Field
from truing.plugins import Hooks, discover
from truing.registry import type_name

WIDTH = "110"
PLUGIN = "hinge"
"""What the skeleton is called on the pages that show it."""


def fields() -> str:
    """The vocabulary of a batch."""
    written = vocabulary.__annotations__
    notes = _notes(vocabulary)
    rows = []
    for name, field in vars(vocabulary).items():
        if isinstance(field, Field):
            holds = written[name].removeprefix("Field[").removesuffix("]")
            kind = f"{holds}, {field.dtype}" if field.dtype else holds
            into = f"position along `{field.into}`" if field.into else ""
            meaning = "; ".join(filter(None, (notes.get(name, ""), into)))
            dims = f"`{field.dims}`" if field.dims else ""
            rows.append([f"`{name}`", f"`{field.name}`", dims, kind.replace("|", "\\|"), meaning])
    return rows_of(("constant", "name", "runs along", "holds", "meaning"), rows)


def events() -> str:
    """Every event with its members, in the order of the file."""
    return "\n\n".join(_event(kind) for kind in event_kinds())


def event_kinds() -> list[type[Event]]:
    """Every event of the kernel."""
    return [kind for kind in vars(happened).values() if inspect.isclass(kind) and issubclass(kind, Event)][1:]


def hooks() -> str:
    """Every hook with its exact signature."""
    told = []
    for name, hook in vars(Hooks).items():
        if name.startswith("truing_"):
            signature = str(inspect.signature(hook)).replace("self", "", 1).replace("'", "")
            told.append(f"## {name}\n\n```python\ndef {name}{signature}: ...\n```\n\n{inspect.getdoc(hook)}")
    return "\n\n".join(told)


def commands() -> str:
    """Every command and what its `--help` says, those of the kernel before those that plugins bring."""
    import typer.main

    from truing.cli.app import app

    group: Any = typer.main.get_command(app)
    told = [_help("truing")]
    for name in (*group.commands, *discover().commands):
        told += [f"## truing {name}", _help("truing", *name.split())]
    return "\n\n".join(told)


def skeleton(file: str) -> str:
    """A file that `truing init --plugin` writes."""
    kind = {".py": "python", ".toml": "toml", ".md": "markdown"}[Path(file).suffix]
    return f"```{kind}\n{_skeleton()[file].rstrip()}\n```"


def pictures(static: Path, name: str, root: str) -> str:
    """Every picture of that name that is there: `mlflow-two-runs.png` is called "mlflow: two runs"."""
    return "\n\n".join(
        f"![{name}: {path.stem.removeprefix(name + '-').replace('-', ' ')}]({root}/{path.name})"
        for path in sorted(static.glob(f"{name}-*.png"))
    )


@cache
def _skeleton() -> dict[str, str]:
    from truing.cli.init import write_plugin

    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        root = Path(place) / "skeleton"
        write_plugin(PLUGIN, root, force=False)
        written = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in written}


def _event(kind: type[Event]) -> str:
    hints, notes = get_type_hints(kind), _notes(kind)
    rows = [
        [f"`{member.name}`", f"`{type_name(hints[member.name])}`".replace("|", "\\|"), notes.get(member.name, "")]
        for member in msgspec.structs.fields(kind)
        if member.name not in Event.__struct_fields__
    ]
    about = inspect.cleandoc(vars(kind).get("__doc__") or "")
    return "\n\n".join(filter(None, (f"## {kind.__name__}", about, rows_of(("member", "type", "meaning"), rows))))


def _notes(where: Any) -> dict[str, str]:
    """The string below an assignment or a member says what it means."""

    body: Any = ast.parse(inspect.getsource(where)).body
    if inspect.isclass(where):
        body = body[0].body
    return dict(_pairs(body))


def _pairs(body: list[Any]) -> Iterator[tuple[str, str]]:
    for statement, below in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            yield statement.target.id, inspect.cleandoc(str(below.value.value)).replace("\n", " ")


def _help(*command: str) -> str:
    from typer.testing import CliRunner

    from truing.cli.app import app

    said = CliRunner().invoke(app, [*command[1:], "--help"], env={"COLUMNS": WIDTH}, prog_name="truing")
    return f"```text\n{said.output.rstrip()}\n```"

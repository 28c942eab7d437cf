"""`truing init`: something to begin with, a copy of a shipped recipe or the skeleton of a plugin."""

from __future__ import annotations

import keyword
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.cli import output
from truing.cli.options import Json

if TYPE_CHECKING:
    from truing.plugins import Plugins

TEMPLATE = Path(__file__).parent / "template"
_STAND_IN = "newcomer"
"""What the template calls its plugin; it is a working plugin itself, so nothing in it needs a template language."""


def init(
    name: Annotated[
        str | None, typer.Argument(help="A recipe that ships; without it they are listed.", show_default=False)
    ] = None,
    destination: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="Where the copy goes.", show_default=False)
    ] = None,
    plugin: Annotated[
        str | None, typer.Option("--plugin", metavar="NAME", help="Write the skeleton of a plugin instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    json: Json = False,
) -> None:
    """Begin a recipe or a plugin.

    truing init lists the recipes that ship, truing init NAME [DEST] copies one of them, and
    truing init --plugin NAME [DEST] writes the skeleton of a plugin.
    """
    from truing.plugins import discover

    if plugin:
        _no_more_than_one(name, destination)
        write_plugin(plugin, Path(name) if name else None, force)
    elif name:
        copy_recipe(name, destination, shipped(discover()), force)
    else:
        found = [{"name": known, "about": _headline(path)} for known, path in shipped(discover()).items()]
        if json:
            output.json(found)
        else:
            output.table(("RECIPE", "ABOUT"), [list(row.values()) for row in found])


def shipped(plugins: Plugins) -> Mapping[str, Path]:
    """Every recipe that comes with truing or with a plugin, by the name `truing init` knows it by: `tiny/dpo`."""
    import truing

    package = Path(truing.__file__).parent
    inside, checkout = package / "recipes", package.parents[1] / "recipes"
    folders = [inside if inside.is_dir() else checkout, *plugins.recipes]
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.toml")):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found


def copy_recipe(name: str, destination: Path | None, known: Mapping[str, Path], force: bool) -> None:
    """Copy a recipe; what is there already stays. Raises UserError."""
    from truing.errors import Problem, UserError, did_you_mean

    source = known.get(name.removesuffix(".toml"))
    if source is None:
        mend = did_you_mean(name, known) or "`truing init` without a name lists them"
        raise UserError(Problem(name, "no such recipe", mend))
    target = destination or Path(source.name)
    target = target / source.name if target.is_dir() else target
    if target.exists() and not force:
        raise UserError(
            Problem(str(target), "this is here already", "name another place, or overwrite it with --force")
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    print(f"{target}\ntruing check {target}")


def write_plugin(name: str, destination: Path | None, force: bool) -> None:
    """Write the skeleton of a plugin called `truing-<name>`. Raises UserError."""
    from truing.errors import Problem, UserError

    short = name.removeprefix("truing-")
    if keyword.iskeyword(short) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", short):
        raise UserError(
            Problem("--plugin", f'"{name}" is no name for a plugin', "use small letters, digits and dashes")
        )
    root = destination or Path(f"truing-{short}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())) and not force:
        raise UserError(Problem(str(root), "this is here already", "name another place, or overwrite it with --force"))
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_file() and source.suffix != ".pyc":
            target = root / _named(source.relative_to(TEMPLATE).as_posix(), short)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_named(source.read_text(encoding="utf-8"), short), encoding="utf-8")
    print(f"{root}\ncd {root} && pip install -e . && pytest")


def _named(text: str, short: str) -> str:
    """The template's text with the plugin's own name: as a class, as part of a module's name, and as it is."""
    camel = "".join(part.capitalize() for part in short.split("-"))
    snake = short.replace("-", "_")
    text = text.replace(_STAND_IN.capitalize(), camel).replace(f"truing_{_STAND_IN}", f"truing_{snake}")
    return (
        text.replace(f"def {_STAND_IN}", f"def {snake}").replace(f":{_STAND_IN}", f":{snake}").replace(_STAND_IN, short)
    )


def _no_more_than_one(name: str | None, destination: Path | None) -> None:
    from truing.errors import Problem, UserError

    if name and destination:
        raise UserError(Problem(str(destination), "one place is enough", "truing init --plugin NAME [DEST]"))


def _headline(path: Path) -> str:
    """The first words of a recipe's opening comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""

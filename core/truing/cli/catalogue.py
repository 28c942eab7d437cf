"""`truing list`, `show`, `plugins` and `version`: what is here, told from the specs without building anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli import output
from truing.cli.options import Block, Json

if TYPE_CHECKING:
    from truing.plugins import Plugins
    from truing.stage import AnySpec


def list_components(
    kind: Annotated[
        str | None, typer.Argument(help="source, model, loss, ...; all of them if not given.", show_default=False)
    ] = None,
    json: Json = False,
    block: Block = None,
) -> None:
    """List the components a recipe can use."""
    from truing.plugins import discover
    from truing.registry import doc
    from truing.stage import KINDS

    plugins = discover(block or ())
    rows = [
        {
            "kind": shelf,
            "name": name,
            "plugin": plugins.registry.plugin_of(spec),
            "about": " ".join(doc(spec).partition("\n\n")[0].split()),
        }
        for shelf in ([_kind(kind)] if kind else KINDS)
        for name, spec in plugins.registry.shelf(shelf).items()
    ]
    if json:
        output.json(rows)
    else:
        output.table(("KIND", "NAME", "PLUGIN", "ABOUT"), [list(row.values()) for row in rows])
        if plugins.hint:
            output.say(plugins.hint)


def show(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] NAME",
            help="What a recipe writes after `use`; before it source, model, loss, ... where two kinds have it.",
            show_default=False,
        ),
    ],
    json: Json = False,
    block: Block = None,
) -> None:
    """Tell all about one component.

    Its options, what it needs on a batch and what it provides, for the options' defaults.
    """
    from truing.errors import Problem, UserError
    from truing.plugins import discover
    from truing.stage import KINDS

    plugins = discover(block or ())
    kind, name = (_kind_of(words[0], plugins), words[0]) if len(words) == 1 else _two(words)
    try:
        spec = plugins.registry.get(KINDS[_kind(kind)], name, kind)
    except UserError as error:
        told = error.problems[0]
        mend = "; ".join(filter(None, (told.mend, plugins.hint)))
        raise UserError(Problem(told.where, told.what, mend)) from None
    facts = _facts(spec, plugins)
    if json:
        output.json(facts)
    else:
        _print(facts)


def plugins(
    times: Annotated[bool, typer.Option("--times", help="Say how long each took to load.")] = False,
    json: Json = False,
    block: Block = None,
) -> None:
    """List plugins, and why any did not load."""
    from truing.plugins import discover

    loaded = discover(block or ()).loaded
    if json:
        output.json(loaded)
        return
    heads = ("PLUGIN", "PACKAGE", "VERSION", "COMPONENTS", *(("MILLISECONDS",) if times else ()), "STATE")
    rows = [
        (
            plugin.name,
            plugin.package,
            plugin.version,
            str(plugin.specs),
            *((f"{1000 * plugin.seconds:.1f}",) if times else ()),
            f"did not load: {plugin.error}" if plugin.error else "fine",
        )
        for plugin in loaded
    ]
    output.table(heads, rows)


def version() -> None:
    """Say the version of truing."""
    from importlib.metadata import version

    print(f"truing {version('truing')}")


def _kind(kind: str) -> str:
    from truing.errors import Problem, UserError, did_you_mean
    from truing.stage import KINDS

    if kind not in KINDS:
        raise UserError(Problem(kind, "no such kind of component", did_you_mean(kind, KINDS)))
    return kind


def _two(words: list[str]) -> tuple[str, str]:
    from truing.errors import Problem, UserError

    if len(words) > 2:
        raise UserError(Problem(" ".join(words), "one component at a time", "truing show [KIND] NAME"))
    return words[0], words[1]


def _kind_of(name: str, plugins: Plugins) -> str:
    """The kind of a component that is named alone. Raises UserError unless there is exactly one."""
    from truing.errors import Problem, UserError, did_you_mean
    from truing.stage import KINDS

    shelves = {kind: plugins.registry.shelf(kind) for kind in KINDS}
    found = [kind for kind, shelf in shelves.items() if name in shelf]
    if len(found) == 1:
        return found[0]
    if found:
        mend = " or ".join(f"truing show {kind} {name}" for kind in found)
        raise UserError(Problem(name, f"{' and '.join(found)} have one of that name", mend))
    if name in KINDS:
        raise UserError(Problem(name, "a kind of component, and none of them", f"truing list {name}"))
    known = [known for shelf in shelves.values() for known in shelf]
    raise UserError(Problem(name, "no such component", did_you_mean(name, known) or plugins.hint))


def _facts(spec: type[AnySpec], plugins: Plugins) -> dict[str, Any]:
    from truing.registry import doc, options, sample

    name = plugins.registry.plugin_of(spec)
    plugin = next(loaded for loaded in plugins.loaded if loaded.name == name)
    some = sample(spec)
    return {
        "kind": spec.kind,
        "name": spec.name,
        "about": doc(spec),
        "plugin": name,
        "package": plugin.package,
        "version": plugin.version,
        "target": spec.target,
        "options": [option._asdict() for option in options(spec)],
        "needs": sorted(field.name for field in some.requires()),
        "provides": sorted(field.name for field in some.provides()),
        "offers": {field.name: how for field, how in spec.offers.items()},
        "refuses": {field.name: why for field, why in spec.refuses.items()},
    }


def _print(facts: Mapping[str, Any]) -> None:
    print(f"{facts['kind']} {facts['name']}  (plugin {facts['plugin']}, {facts['package']} {facts['version']})\n")
    print(facts["about"] + "\n")
    columns = ("OPTION", "TYPE", "DEFAULT", "RANGE", "MEANING")
    rows = [
        (
            option["name"],
            option["type"],
            "required" if option["default"] is None else option["default"],
            option["range"],
            option["meaning"],
        )
        for option in facts["options"]
    ]
    if rows:
        output.table(columns, rows)
        print()
    for word in ("needs", "provides"):
        if facts[word]:
            print(f"{word:<10}{', '.join(facts[word])}")
    for word in ("offers", "refuses"):
        for field, text in facts[word].items():
            print(f"{word:<10}{field}: {text}")

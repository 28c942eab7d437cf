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
    kind: Annotated[str, typer.Argument(help="source, model, loss, ...", show_default=False)],
    name: Annotated[str, typer.Argument(help="What a recipe writes after `use`.", show_default=False)],
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

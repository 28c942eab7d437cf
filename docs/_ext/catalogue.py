"""Components, as the specs tell them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from truing import stage
from truing.attempts import Failures
from truing.plugins import Plugins, discover
from truing.recipe import Loop
from truing.registry import Option, doc, options, sample
from truing.stage import KINDS, AnySpec
from truing.until import Best, Until

PROTOCOLS: dict[str, Sequence[type[Any]]] = {
    "source": (stage.Source, stage.DataInfo),
    "generator": (stage.Generator,),
    "environment": (stage.Environment, stage.Episode, stage.Task, stage.Said, stage.Reply),
    "scorer": (stage.Scorer,),
    "look": (stage.Look,),
    "advantage": (stage.AdvantageEstimator,),
    "loss": (stage.Loss, stage.LossValue, stage.Term),
    "controller": (stage.Controller,),
    "optimizer": (stage.Optimizer,),
    "model": (stage.Model, stage.Encoded),
    "observer": (stage.Observer,),
}
"""What a stage of a kind is, and the tuples it deals in."""


@cache
def plugins() -> Plugins:
    """The plugins of this installation."""
    return discover()


def built_in(kind: str) -> Iterator[type[AnySpec]]:
    """The components of a kind that come with truing itself."""
    own = {plugin.name for plugin in plugins().loaded if plugin.package == "truing"}
    for spec in plugins().registry.shelf(kind).values():
        if plugins().registry.plugin_of(spec) in own:
            yield spec


def components(kind: str) -> str:
    """Every built-in component of a kind, a section each."""
    found = [_component(spec) for spec in built_in(kind)]
    return "\n\n".join(found) or f"No {kind} comes with truing yet."


def contract(kind: str) -> str:
    """The protocols of a kind and the base of its specs, as they are written."""
    source = "\n\n".join(inspect.getsource(part).rstrip() for part in (*PROTOCOLS[kind], KINDS[kind]))
    return f"```python\n{source}\n```"


def loop() -> str:
    """The options of the loop table."""
    return table(options(Loop))


def failures() -> str:
    """The options of what may go wrong."""
    return table(options(Failures))


def until() -> str:
    """The options of a condition that ends a phase."""
    return table(options(Until))


def best() -> str:
    """The options of the best look."""
    return table(options(Best))


def table(some: Iterable[Option]) -> str:
    """Options as a table."""
    rows = [
        [
            f"`{option.name}`",
            _code(option.type),
            "required" if option.default is None else _code(option.default),
            _plain(option.range),
            _plain(option.meaning),
        ]
        for option in some
    ]
    return rows_of(("option", "type", "default", "range", "meaning"), rows)


def rows_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _component(spec: type[AnySpec]) -> str:
    told = [
        f"## {spec.name}",
        doc(spec),
        f'`use = "{spec.name}"`, from plugin `{plugins().registry.plugin_of(spec)}`, built by `{spec.target}`.',
    ]
    own = options(spec)
    told.append(table(own) if own else "It has no options.")
    facts = [*_needs(spec), *_promises("offers", spec.offers), *_promises("refuses", spec.refuses)]
    if facts:
        told.append("\n".join(f"- {fact}" for fact in facts))
    return "\n\n".join(told)


def _needs(spec: type[AnySpec]) -> Iterator[str]:
    """What the component needs and provides when its required options are given and the others left alone."""
    bare = sample(spec)
    for word, some in (("needs", bare.requires()), ("provides", bare.provides())):
        if some:
            yield f"{word} {', '.join(f'[`{name}`](fields.md)' for name in sorted(field.name for field in some))}"


def _promises(word: str, told: Any) -> Iterator[str]:
    for field, text in sorted(told.items(), key=lambda entry: entry[0].name):
        yield f"{word} [`{field.name}`](fields.md): {text}"


def _code(text: str) -> str:
    return f"`{_plain(text)}`" if text else ""


def _plain(text: str) -> str:
    return text.replace("|", "\\|")

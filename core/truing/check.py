"""Does the recipe fit together?

Folds what each stage needs and adds along the way of a batch, before anything is built.

    source -> encode -> (generator -> scorer -> advantage) -> model -> loss

With a generator, what the source says of completions ends there: others are sampled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from truing.errors import Problem, did_you_mean
from truing.fields import ANSWERS, Field, Fields, fields
from truing.recipe import Phase, Recipe
from truing.registry import Registry
from truing.stage import AnySpec
from truing.toml import Document

PHASE_MODEL = {"accepts": "@model"}
"""`Meta(extra=PHASE_MODEL)` marks an option that may name the model of an earlier phase: `path = "@sft"`."""

_NEEDED = ("source", "model", "optimizer", "loss")
_SAMPLED = {"scorer": "scores", "advantage": "compares"}
_MENDS = {
    "source": "a phase learns from a [source] of groups",
    "model": "a phase needs the [model] that learns",
    "optimizer": 'say how it learns: [optimizer] with use = "adamw"',
    "loss": 'say what it learns: [loss] with use = "sft", for example',
}


def check(
    recipe: Recipe, document: Document, registry: Registry, broken: Collection[tuple[str | int, ...]]
) -> Iterator[Problem]:
    """Every problem that shows only when the parts are seen together. `broken` tables were reported already."""
    earlier: list[str] = []
    for phase in recipe.phases:
        yield from _tables(phase, document)
        yield from _loop(phase, document)
        for table, spec in phase.parts():
            yield from _options(spec, phase.table(table), document, earlier)
        yield from _contract(phase, document, registry, broken)
        earlier.append(phase.name)
    for index, spec in enumerate(recipe.observers):
        yield from _options(spec, ("observer", index), document, [])


def wanted(phase: Phase) -> Fields:
    """The fields that some stage of a phase needs: what its model must be able to give."""
    needs = fields()
    for _, spec in phase.parts():
        needs |= spec.requires()
    return needs


def _tables(phase: Phase, document: Document) -> Iterator[Problem]:
    present: Any = document.values
    for key in phase.table():
        present = present[key]
    for table in _NEEDED:
        if table not in present:
            header = ".".join(phase.table(table))
            yield Problem(document.where(*phase.table()), f"no [{header}] in this recipe", _MENDS[table])
    for table, does in _SAMPLED.items():
        if table in present and "generator" not in present:
            what = f"the {table} {does} what a generator writes, and this phase has none"
            yield Problem(document.where(*phase.table(table)), what, "add a [generator], or take it out")


def _loop(phase: Phase, document: Document) -> Iterator[Problem]:
    loop = phase.loop
    for key, value in (("steps", loop.steps), ("epochs", loop.epochs)):
        if value is not None and value < 1:
            path = phase.table("loop", key)
            yield Problem(document.where(*path), f"{'.'.join(path)}: expected `int` >= 1")
    if loop.steps is not None and loop.epochs is not None:
        what = "loop.steps and loop.epochs both say when to stop"
        yield Problem(document.where(*phase.table("loop", "epochs")), what, "keep one of them")
    if loop.staleness and phase.generator is None:
        where = document.where(*phase.table("loop", "staleness"))
        yield Problem(where, "loop.staleness is of completions that are sampled", "add a [generator], or take it out")
    if loop.evaluate_every and phase.holdout is None:
        where = document.where(*phase.table("loop", "evaluate_every"))
        yield Problem(
            where,
            "loop.evaluate_every has nothing to look at",
            "add a [holdout], a source that is kept out of training",
        )


def _options(
    spec: AnySpec, path: tuple[str | int, ...], document: Document, earlier: Collection[str]
) -> Iterator[Problem]:
    for fault in spec.problems():
        yield Problem(document.where(*path, fault.option), fault.what, fault.mend)
    for option, hint in get_type_hints(type(spec), include_extras=True).items():
        value = getattr(spec, option, None)
        if isinstance(value, str) and value.startswith("@") and _accepts_a_phase(hint) and value[1:] not in earlier:
            mend = did_you_mean(value[1:], earlier) if earlier else "no phase comes before this one"
            yield Problem(document.where(*path, option), f'no earlier phase called "{value[1:]}" makes a model', mend)


def _accepts_a_phase(hint: Any) -> bool:
    if get_origin(hint) is not Annotated:
        return False
    return any(isinstance(note, msgspec.Meta) and (note.extra or {}) == PHASE_MODEL for note in get_args(hint)[1:])


def _contract(
    phase: Phase, document: Document, registry: Registry, broken: Collection[tuple[str | int, ...]]
) -> Iterator[Problem]:
    if phase.model is None or any(
        phase.table(table) in broken for table in ("source", "generator", "scorer", "advantage", "model")
    ):
        return
    for first in ("source", "holdout"):
        opening = getattr(phase, first)
        if opening is None:
            continue
        have: Fields = opening.provides()
        past = ("source", "holdout", *(() if phase.generator else _SAMPLED))
        if phase.generator is not None:
            have = frozenset(key for key in have if key.dims in ("", "group")) | phase.model.encodes() | {ANSWERS}
            # Of a holdout, completions are sampled and scored; nothing is learned from them.
            past = past if first == "source" else (*past, "advantage", "model", "optimizer", "loss")
        for table, spec in phase.parts():
            if table in past:
                continue
            for form in spec.refuses.keys() & have:
                what = f'{table} "{spec.name}" cannot take {form}'
                yield Problem(document.where(*phase.table(first)), what, spec.refuses[form])
            for need in sorted(spec.requires() - have, key=lambda field: field.name):
                what = f'{table} "{spec.name}" needs {need}, and no earlier stage provides it'
                if first == "holdout" and need in (phase.source.provides() if phase.source else ()):
                    yield Problem(
                        document.where(*phase.table(first)),
                        f"{what} from [holdout]",
                        "map the same columns as in [source]",
                    )
                elif first == "source" or phase.source is None:
                    mend = "\n".join(registry.providers(need, _no_help(phase, need)))
                    yield Problem(
                        document.where(*phase.table(table)), what, _indented(mend, document.where(*phase.table(table)))
                    )
            have |= spec.provides()


def _no_help(phase: Phase, need: Field[Any]) -> Collection[str]:
    """Kinds whose components cannot provide a field here, though elsewhere they do."""
    if phase.generator is None:
        return ("generator", *_SAMPLED)
    return () if need.dims in ("", "group") else ("source",)


def _indented(text: str, where: str) -> str:
    return text.replace("\n", "\n" + " " * (len(where) + 2))

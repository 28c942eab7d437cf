"""Does the recipe fit together?

Folds what each stage needs and adds along the way of a batch, before anything is built.

    source -> encode -> (generator -> scorer -> advantage) -> model -> loss

With a generator, what the source says of completions ends there: others are sampled. A phase without optimizer and loss
ends before the model: it makes data.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import Annotated, Any, cast, get_args, get_origin

import msgspec

from truing.attempts import Failures
from truing.errors import Problem, did_you_mean
from truing.fields import ANSWERS, SEQ, TOKENS, Field, Fields, fields
from truing.recipe import Phase, Recipe
from truing.registry import Registry
from truing.stage import AnySpec, hints_of, within
from truing.toml import Document
from truing.until import HELD_OUT

PHASE_MODEL = {"accepts": "@model"}
"""`Meta(extra=PHASE_MODEL)` marks an option that may name the model of an earlier phase: `path = "@sft"`."""
PHASE_WEIGHTS = {**PHASE_MODEL, "reads": "weights"}
"""The same of an option, of whose model the weights are read and nothing that was measured of it."""
PHASE_DATA = {"accepts": "@data"}
"""The same of an option, or a list, that may name the data of earlier phases."""

_NEEDED = ("source", "model", "optimizer", "loss")
_SAMPLED = {"scorer": "scores", "advantage": "compares"}
_MENDS = {
    "source": "a phase learns from a [source] of groups",
    "model": "a phase needs the [model] that learns",
    "optimizer": 'say how it learns: [optimizer] with use = "adamw"',
    "loss": 'say what it learns: [loss] with use = "sft", for example',
}
_LOOK = "add a [holdout], and say with loop.evaluate_every how often to look at it"
_NO_ROWS = ("bootstrap", "noise", "shuffle")
"""options of sources that leave the rows the same ones"""
_OF_LEARNING = ("epochs", "evaluate_every", "checkpoint_every", "staleness", "refill", "until", "best")


def check(
    recipe: Recipe, document: Document, registry: Registry, broken: Collection[tuple[str | int, ...]]
) -> Iterator[Problem]:
    """Every problem that shows only when the parts are seen together. `broken` tables were reported already."""
    models: dict[str, Fields | None] = {}
    data: dict[str, Fields | None] = {}
    for phase in recipe.phases:
        present = _present(phase, document)
        makes_data = not present & {"optimizer", "loss"} and bool(present & {"generator", "scorer"})
        yield from _tables(phase, document, present, makes_data)
        yield from _data_loop(phase, document, present) if makes_data else _loop(phase, document)
        for table, outer in phase.parts():
            for inside, spec in within(outer):
                path = (*phase.table(table), *inside)
                yield from _options(spec, path, document)
                yield from _phases(spec, path, document, PHASE_MODEL, models, registry)
                yield from _phases(spec, path, document, PHASE_DATA, data, registry)
        yield from _contract(phase, document, registry, broken, makes_data)
        (data if makes_data else models)[phase.name] = (
            None if any(phase.table(table) in broken for table in present) else _made(phase, makes_data)
        )
    for index, spec in enumerate(recipe.observers):
        yield from _options(spec, ("observer", index), document)


def named(spec: AnySpec, accepts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The options of a component that name earlier phases, and those phases. accepts: PHASE_MODEL or PHASE_DATA"""
    for option, hint in hints_of(type(spec)).items():
        if _accepts(hint, accepts):
            value: str | list[str] = getattr(spec, option)
            for each in [value] if isinstance(value, str) else value:
                if each.startswith("@"):
                    yield option, each[1:]


def wanted(phase: Phase) -> Fields:
    """The fields that some stage of a phase needs: what its model must be able to give."""
    needs = fields()
    for _, spec in phase.parts():
        needs |= spec.requires()
    return needs


def _present(phase: Phase, document: Document) -> set[str]:
    """The tables that a phase has in the file, sound or not."""
    return set(reduce(getitem, phase.table(), cast(Any, document.values)))


def _tables(phase: Phase, document: Document, present: set[str], makes_data: bool) -> Iterator[Problem]:
    for table in _NEEDED[:2] if makes_data else _NEEDED:
        if table not in present:
            yield Problem(
                document.where(*phase.table()), f"no [{'.'.join(phase.table(table))}] in this recipe", _MENDS[table]
            )
    for table, does in _SAMPLED.items():
        if table in present and "generator" not in present and not makes_data:
            what = f"the {table} {does} what a generator writes, and this phase has none"
            yield Problem(document.where(*phase.table(table)), what, "add a [generator], or take it out")
    if "look" in present and (makes_data or not {"generator", "holdout"} <= present):
        what = "the look is at what a generator writes for a [holdout], while something is learned"
        yield Problem(document.where(*phase.table("look")), what, "add both, or take it out")


def _data_loop(phase: Phase, document: Document, present: set[str]) -> Iterator[Problem]:
    """What is of no use where nothing is learned."""
    mend = "it goes through its source once; take it out, or say what is learned with [optimizer] and [loss]"
    for option in _OF_LEARNING:
        if getattr(phase.loop, option):
            yield Problem(
                document.where(*phase.table("loop", option)), f"loop.{option} in a phase that makes data", mend
            )
    for table in present & {"holdout", "controller"}:
        yield Problem(document.where(*phase.table(table)), f"a [{table}] in a phase that makes data", mend)


def _loop(phase: Phase, document: Document) -> Iterator[Problem]:
    loop = phase.loop
    yield from _looks(phase, document)
    if phase.controller and not phase.controller.provides() & wanted(phase):
        yield Problem(
            document.where(*phase.table("controller")),
            f'the controller "{phase.controller.name}" sets what no estimator and no loss heeds',
            'write kl = "controlled" there, or take it out',
        )
    for key, value in (("steps", loop.steps), ("epochs", loop.epochs)):
        if value is not None and value < 1:
            yield Problem(
                document.where(*phase.table("loop", key)), f"{'.'.join(phase.table('loop', key))}: expected `int` >= 1"
            )
    if loop.steps is not None and loop.epochs is not None:
        what = "loop.steps and loop.epochs both say when to stop"
        yield Problem(document.where(*phase.table("loop", "epochs")), what, "keep one of them")
    for at, condition in enumerate(loop.until):
        where = document.where(*phase.table("loop", "until"), at)
        told = [word for word in ("above", "below", "patience") if getattr(condition, word) is not None]
        if len(told) != 1:
            what = f'loop.until on "{condition.metric}" has {" and ".join(told) or "no condition"}'
            yield Problem(where, what, "say one of above, below and patience; another condition is a table of its own")
        if condition.metric.startswith(HELD_OUT) and (phase.holdout is None or not loop.evaluate_every):
            yield Problem(where, f'loop.until waits for "{condition.metric}", and nobody looks', _LOOK)
    if loop.best:
        where = document.where(*phase.table("loop", "best"))
        if not loop.best.metric.startswith(HELD_OUT):
            what = f'loop.best is told by a look at the holdout, and "{loop.best.metric}" is of a step'
            yield Problem(where, what, f'write "{HELD_OUT}{loop.best.metric}"')
        elif phase.holdout is None:
            yield Problem(where, "loop.best is told by a look at the holdout, and there is none", _LOOK)
    if phase.generator is None:
        sampled = {
            "staleness": (loop.staleness, "completions that are sampled"),
            "refill": (loop.refill, "groups that a scorer or an advantage leaves out"),
            "failures": (
                loop.failures != Failures(read_seconds=loop.failures.read_seconds),
                "a generator and a scorer",
            ),
        }
        for option, (given, what) in sampled.items():
            if given:
                yield Problem(
                    document.where(*phase.table("loop", option)),
                    f"loop.{option} is of {what}",
                    "add a [generator], or take it out",
                )


def _looks(phase: Phase, document: Document) -> Iterator[Problem]:
    """Looks at the holdout: at what, and whether anything waits for them. Of rows that are learned from they say
    nothing."""
    if phase.source and phase.holdout:
        (read, rows), (other, held) = _cut(phase.source), _cut(phase.holdout)
        if read == other and max(rows.start, held.start) < min(rows.stop, held.stop):
            yield Problem(
                document.where(*phase.table("holdout")),
                "rows of the [holdout] are learned from, too",
                "let one begin where the other ends: set `skip`, and how many, in both",
            )
    if phase.loop.evaluate_every and phase.holdout is None:
        yield Problem(
            document.where(*phase.table("loop", "evaluate_every")),
            "loop.evaluate_every has nothing to look at",
            "add a [holdout], a source that is kept out of training",
        )
    if (phase.look and phase.look.beside) and (
        phase.loop.best or any(each.metric.startswith(HELD_OUT) for each in phase.loop.until)
    ):
        yield Problem(
            document.where(*phase.table("look", "beside")),
            "loop.best and loop.until wait for a look, so nothing goes on beside it",
            "take it out",
        )


def _cut(source: AnySpec) -> tuple[Mapping[str, Any], range]:
    """What a source reads, and the rows of it that it takes: from `skip` on, as many as `limit` or `size`; none that is
    known of where it has no such options."""
    told = {key: value for key, value in msgspec.structs.asdict(source).items() if key not in _NO_ROWS}
    first, count = told.pop("skip", sys.maxsize), told.pop("limit", told.pop("size", None))
    return {**told, "use": source.name}, range(
        first, min(first + (sys.maxsize if count is None else count), sys.maxsize)
    )


def _options(spec: AnySpec, path: tuple[str | int, ...], document: Document) -> Iterator[Problem]:
    for fault in spec.problems():
        yield Problem(document.where(*path, fault.option), fault.what, fault.mend)


def _phases(
    spec: AnySpec,
    path: tuple[str | int, ...],
    document: Document,
    accepts: Mapping[str, str],
    earlier: Mapping[str, Fields | None],
    registry: Registry,
) -> Iterator[Problem]:
    """Options that name earlier phases: is there such a one, and do the data it made have what is read of them?"""
    what = "data" if accepts is PHASE_DATA else "a model"
    for option, name in named(spec, accepts):
        where = document.where(*path, option)
        if name not in earlier:
            mend = did_you_mean(name, earlier) if earlier else f"no phase before this one makes {what}"
            yield Problem(where, f'no earlier phase called "{name}" makes {what}', mend)
            continue
        have = earlier[name]
        bare = _accepts(hints_of(type(spec))[option], PHASE_WEIGHTS)
        lacking = fields() if have is None or bare else spec.reads() - have
        for need in sorted(lacking, key=lambda field: field.name):
            without = ("source", "model") if accepts is PHASE_DATA else ()
            mend = _indented("\n".join(registry.providers(need, without)), where)
            yield Problem(where, f'{spec.kind} "{spec.name}" reads {need}, which "{name}" does not provide', mend)


def _accepts(hint: Any, accepts: Mapping[str, str]) -> bool:
    return get_origin(hint) is Annotated and any(
        isinstance(note, msgspec.Meta) and accepts.items() <= (note.extra or {}).items() for note in get_args(hint)[1:]
    )


def _contract(
    phase: Phase,
    document: Document,
    registry: Registry,
    broken: Collection[tuple[str | int, ...]],
    makes_data: bool,
) -> Iterator[Problem]:
    if phase.model is None or any(
        phase.table(table) in broken for table in ("source", "generator", "scorer", "advantage", "model", "controller")
    ):
        return
    for first, opening in (("source", phase.source), ("holdout", phase.holdout)):
        if opening is None:
            continue
        yield from _unread(phase, opening, document.where(*phase.table(first)))
        have = _encoded(phase, opening.provides()) if phase.generator or makes_data else opening.provides()
        if phase.controller:
            # It is set before a step, though what it is set by is measured behind the model.
            have |= phase.controller.provides()
        past = (
            "source",
            "holdout",
            *(("look",) if first == "source" else ()),
            *(("model",) if makes_data else () if phase.generator else _SAMPLED),
        )
        if phase.generator and first == "holdout":
            # Completions are sampled and scored; nothing is learned from them.
            past = (*past, "advantage", "model", "controller", "optimizer", "loss")
        for table, spec in phase.parts():
            if table in past:
                continue
            for _, inside in within(spec):
                for form in inside.refuses.keys() & have:
                    what = f'{inside.kind} "{inside.name}" cannot take {form}'
                    yield Problem(document.where(*phase.table(first)), what, inside.refuses[form])
            for need in sorted(spec.requires() - have, key=lambda field: field.name):
                what = f'{table} "{spec.name}" needs {need}, and no earlier stage provides it'
                if first == "holdout" and need in (phase.source.provides() if phase.source else ()):
                    yield Problem(
                        document.where(*phase.table(first)),
                        f"{what} from [holdout]",
                        "map the same columns as in [source]",
                    )
                elif first == "source" or table == "look" or phase.source is None:
                    mend = "\n".join(registry.providers(need, _no_help(phase, need)))
                    yield Problem(
                        document.where(*phase.table(table)), what, _indented(mend, document.where(*phase.table(table)))
                    )
            have |= spec.provides()


def _unread(phase: Phase, source: AnySpec, where: str) -> Iterator[Problem]:
    """What a source insists on, and the loss passes over."""
    for field in source.insists() - wanted(phase) if phase.loss else ():
        yield Problem(
            where,
            f'{source.kind} "{source.name}" insists on {field}, and the loss does not read it',
            "take a loss that does, or data without it",
        )


def _encoded(phase: Phase, have: Fields) -> Fields:
    """What a generator is handed, or where there is none a scorer, of what a source provides."""
    assert phase.model
    if phase.generator:
        return frozenset(key for key in have if key.dims in ("", "group")) | phase.model.encodes() | {ANSWERS}
    return have | phase.model.encodes() | fields(TOKENS, SEQ)


def _made(phase: Phase, makes_data: bool) -> Fields:
    """What the data, or the model, have that a phase makes."""
    if not makes_data:
        return phase.model.leaves(phase.holdout is not None) if phase.model else fields()
    have = _encoded(phase, phase.source.provides()) if phase.source and phase.model else fields()
    return have.union(*(spec.provides() for table, spec in phase.parts() if table in ("generator", *_SAMPLED)))


def _no_help(phase: Phase, need: Field[Any]) -> Collection[str]:
    """Kinds whose components cannot provide a field here, though elsewhere they do."""
    if phase.generator is None:
        return ("generator", *_SAMPLED)
    return () if need.dims in ("", "group") else ("source",)


def _indented(text: str, where: str) -> str:
    return text.replace("\n", "\n" + " " * (len(where) + 2))

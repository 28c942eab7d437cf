"""TOML to a Recipe: one flat file, overrides from the command line, one phase or several, every problem at once.

name = "..."            what the run is called
seed = 0
[[observer]] use = ...  who watches
[source] [holdout] [model] [optimizer] [loss] [loop] ...      one phase, or
[phase.sft.source] ... [phase.dpo.source] ...                 several, run in the order of the file
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields as members
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta

from truing import toml
from truing.attempts import Failures
from truing.errors import Problem, UserError, did_you_mean
from truing.plugins import Plugins
from truing.registry import type_name
from truing.stage import (
    AdvantageSpec,
    AnySpec,
    ControllerSpec,
    GeneratorSpec,
    LookSpec,
    LossSpec,
    ModelSpec,
    ObserverSpec,
    OptimizerSpec,
    ScorerSpec,
    SourceSpec,
    Spec,
    component_of,
    hints_of,
    options_of,
)
from truing.until import Best, Until

S = TypeVar("S", bound=msgspec.Struct)


class Loop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a phase trains, and when it looks up."""

    batch: Annotated[
        int, Meta(ge=1, description="groups per optimizer step; a group is a prompt with its completions")
    ] = 8
    steps: Annotated[int | None, Meta(description="optimizer steps; instead of `epochs`")] = None
    epochs: Annotated[int | None, Meta(description="passes over the source; 1 when neither is given")] = None
    evaluate_every: Annotated[
        int, Meta(ge=0, description="steps between looks at the holdout; 0: only before and after")
    ] = 0
    checkpoint_every: Annotated[int, Meta(ge=0, description="steps between checkpoints; 0: only when interrupted")] = 0
    staleness: Annotated[
        int,
        Meta(
            ge=0,
            description="with a generator: how many steps old the weights may be that a completion was sampled from "
            "when it is learned from; 0: sampling and learning take turns",
        ),
    ] = 0
    refill: Annotated[
        int,
        Meta(
            ge=0,
            description="with a generator: how often a batch that lost groups is filled up with fresh ones; 0: a step "
            "is made of those that are left",
        ),
    ] = 0
    until: Annotated[
        list[Until], Meta(description="conditions on the phase's own metrics, the first of which ends it early")
    ] = []
    best: Annotated[
        Best | None,
        Meta(description="the look at the holdout whose weights become the model; none: the last step's do"),
    ] = None
    failures: Annotated[
        Failures,
        Meta(description="with a generator or a scorer: on how many groups they may fail, and how long they may take"),
    ] = Failures()
    keep: Annotated[int, Meta(ge=1, description="how many checkpoints to keep, the newest")] = 2


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase, typed. name is "" in a recipe of a single phase."""

    name: str
    loop: Loop
    source: SourceSpec | None = None
    holdout: SourceSpec | None = None
    generator: GeneratorSpec | None = None
    scorer: ScorerSpec | None = None
    look: LookSpec | None = None
    advantage: AdvantageSpec | None = None
    model: ModelSpec | None = None
    controller: ControllerSpec | None = None
    optimizer: OptimizerSpec | None = None
    loss: LossSpec | None = None

    @property
    def makes_data(self) -> bool:
        """Whether nothing is learned: what is sampled or scored is written down instead."""
        return self.optimizer is None and self.loss is None and bool(self.generator or self.scorer)

    def parts(self) -> Iterator[tuple[str, AnySpec]]:
        """The tables of the phase that name a component, in the order in which a batch meets them."""
        for member in members(self):
            value = getattr(self, member.name)
            if isinstance(value, msgspec.Struct) and not isinstance(value, Loop):
                yield member.name, cast(AnySpec, value)

    def table(self, *path: str) -> tuple[str, ...]:
        """The path of a key of this phase in the file."""
        return ("phase", self.name, *path) if self.name else path


@dataclass(frozen=True)
class Recipe:
    """A recipe in which every name is resolved and every option typed; nothing is built yet."""

    name: str
    seed: int
    phases: Sequence[Phase]
    observers: Sequence[ObserverSpec]
    text: str = ""

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain values, every default written out."""
        phases = {phase.name: _plain_phase(phase) for phase in self.phases}
        body = phases.get("", {"phase": phases})
        observers = [plain(spec) for spec in self.observers]
        return {"name": self.name, "seed": self.seed, **({"observer": observers} if observers else {}), **body}

    def digest(self) -> str:
        """A short name for exactly this recipe, the order of its phases included."""
        order = [phase.name for phase in self.phases]
        return hashlib.sha256(msgspec.json.encode([order, self.resolved()], order="deterministic")).hexdigest()[:16]


TABLES: Mapping[str, type[AnySpec]] = {
    "source": SourceSpec,
    "holdout": SourceSpec,
    "generator": GeneratorSpec,
    "scorer": ScorerSpec,
    "look": LookSpec,
    "advantage": AdvantageSpec,
    "model": ModelSpec,
    "controller": ControllerSpec,
    "optimizer": OptimizerSpec,
    "loss": LossSpec,
}
"""The tables of a phase that name a component, and the kind each takes."""

_FORMS: Mapping[str, tuple[type, str, str]] = {
    "list": (list, "a list", "[[{0}]]"),
    "dict": (dict, "a table", "[{0}.NAME]"),
}
"""How an option may hold several components: as what, in words, and how it is written."""
_TOP = {"name": str, "seed": int}
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def load(path: Path, plugins: Plugins, overrides: Sequence[str] = ()) -> Recipe:
    """Read, resolve and check a recipe. Raises UserError with every problem found. Imports nothing heavy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        mend = "`truing init` lists the recipes that come with truing"
        raise UserError(Problem(str(path), f"cannot read this recipe: {reason}", mend)) from None
    return read(text, str(path), plugins, overrides)


def read(text: str, name: str, plugins: Plugins, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its text; problems are said to stand in the file `name`. Raises UserError with all of them."""
    from truing.check import check

    document = toml.parse(text, name)
    problems: list[Problem] = []
    for assignment in overrides:
        _collect(problems, document.override, assignment)
    reader = _Reader(document, plugins, problems)
    recipe = reader.recipe(Path(name).stem, text)
    problems.extend(check(recipe, document, plugins.registry, reader.broken))
    if problems:
        raise UserError(sorted(dict.fromkeys(problems), key=_place))
    return recipe


def plain(spec: AnySpec) -> dict[str, Any]:
    """A component as the table that would make it."""
    return {"use": spec.name, **_plain_options(spec)}


def _plain_options(options: msgspec.Struct) -> dict[str, Any]:
    """What is set, as TOML has it: an option that is none is not written."""
    values = {option: getattr(options, option) for option in options.__struct_fields__}
    return {key: _plain_value(value) for key, value in values.items() if value is not None}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Spec):
        return plain(cast(AnySpec, value))
    if isinstance(value, msgspec.Struct):
        return _plain_options(value)
    if isinstance(value, list):
        return [_plain_value(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _plain_value(each) for key, each in cast("dict[str, Any]", value).items()}
    return msgspec.to_builtins(value)


class _Reader:
    """Turns tables into specs, each option alone, so that one mistake hides no other."""

    def __init__(self, document: toml.Document, plugins: Plugins, problems: list[Problem]) -> None:
        self.document = document
        self.plugins = plugins
        self.problems = problems
        self.broken: set[tuple[str | int, ...]] = set()

    def recipe(self, stem: str, text: str) -> Recipe:
        values = self.document.values
        phased = "phase" in values
        known = {*_TOP, "observer", *(("phase",) if phased else (*TABLES, "loop"))}
        for key in values:
            if key not in known:
                inside = phased and key in {*TABLES, "loop"}
                mend = f"a recipe with phases keeps its tables inside them: phase.NAME.{key}" if inside else ""
                self.say(
                    (key,),
                    f"no table [{key}] in a recipe" if isinstance(values[key], dict) else f'a recipe has no "{key}"',
                    mend or did_you_mean(key, known | {"phase"}),
                )
        head = {key: self.value(kind, values[key], (key,)) for key, kind in _TOP.items() if key in values}
        head = {key: value for key, value in head.items() if value is not msgspec.UNSET}
        name = head.get("name") or stem
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            self.say(("name",), f'"{name}" cannot be a folder', "use letters, digits, dots, dashes and underscores")
        phases = self.phases(values["phase"]) if phased else [self.phase("", values, ())]
        return Recipe(name, head.get("seed") or 0, phases, self.observers(values.get("observer", [])), text)

    def phases(self, tables: Any) -> list[Phase]:
        if not isinstance(tables, dict) or not tables:
            self.say(("phase",), "[phase] holds the phases of the recipe", "write its tables as [phase.sft.model]")
            return []
        found: list[Phase] = []
        for name, inner in cast("dict[str, Any]", tables).items():
            path = ("phase", name)
            if not isinstance(inner, dict) or not _NAME.fullmatch(name):
                self.say(path, f'"{name}" is no phase', "a phase is a table named in small letters, digits, - and _")
                continue
            known = {*TABLES, "loop"}
            for key in [key for key in cast("dict[str, Any]", inner) if key not in known]:
                self.say((*path, key), f"no table [phase.{name}.{key}] in a recipe", did_you_mean(key, known))
            found.append(self.phase(name, cast("dict[str, Any]", inner), path))
        return found

    def phase(self, name: str, tables: Mapping[str, Any], path: tuple[str, ...]) -> Phase:
        parts = {key: self.component(kind, tables[key], (*path, key)) for key, kind in TABLES.items() if key in tables}
        loop = self.struct(Loop, self.table(tables.get("loop", {}), (*path, "loop")), (*path, "loop"))
        return Phase(name=name, loop=loop or Loop(), **cast("dict[str, Any]", parts))

    def observers(self, tables: Any) -> list[ObserverSpec]:
        if not isinstance(tables, list):
            self.say(("observer",), "observers are a list", "write each as [[observer]]")
            return []
        made = [
            self.component(ObserverSpec, table, ("observer", index))
            for index, table in enumerate(cast("list[Any]", tables))
        ]
        return [cast(ObserverSpec, spec) for spec in made if spec is not None]

    def component(self, kind: type[AnySpec], table: Any, path: tuple[str | int, ...]) -> AnySpec | None:
        options = self.table(table, path)
        if not isinstance(table, dict):
            self.broken.add(path)
            return None
        use = options.pop("use", None)
        where = self.document.where(*path, "use")
        try:
            if not isinstance(use, str):
                known = f"known here: {', '.join(self.plugins.registry.shelf(kind.kind))}"
                raise UserError(
                    Problem(where, f"{_header(path)} must say which {kind.kind} to use", f'write use = "name"; {known}')
                )
            spec = self.plugins.registry.get(kind, use, where)
        except UserError as error:
            first = error.problems[0]
            mend = "; ".join(filter(None, (first.mend, self.plugins.hint)))
            self.problems.append(Problem(first.where, first.what, mend))
            self.broken.add(path)
            return None
        return self.struct(spec, options, path)

    def struct(self, into: type[S], options: Mapping[str, Any], path: tuple[str | int, ...]) -> S | None:
        """Convert every option by itself. None, and the path marked as broken, if any of them is wrong."""
        hints = hints_of(into)
        known = options_of(into)
        before = len(self.problems)
        for key in options:
            if key not in known:
                self.say(
                    (*path, key), f'{_header(path)} has no option "{key}"', did_you_mean(key, known) or _look(into)
                )
        for key, option in known.items():
            if option.required and key not in options:
                self.say(path, f'{_header(path)} needs "{key}"', _meaning(hints[key]))
        taken = {key: self.value(hints[key], value, (*path, key)) for key, value in options.items() if key in known}
        if len(self.problems) == before:
            return into(**taken)
        self.broken.add(path)
        sound = {key: value for key, value in taken.items() if value is not msgspec.UNSET}
        if issubclass(into, Spec) and all(key in sound for key, option in known.items() if option.required):
            for fault in into(**sound).problems():
                self.say((*path, fault.option), fault.what, fault.mend)
        return None

    def value(self, hint: Any, value: Any, path: tuple[str | int, ...]) -> Any:
        """One option; a component inside a component as any other. UNSET if anything is wrong with it."""
        if kind := component_of(hint):
            return self.inside(kind, hint, value, path)
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            text = str(error)
            self.say(path, f"{'.'.join(map(str, path))}: {text[:1].lower()}{text[1:]}", _meaning(hint))
            return msgspec.UNSET

    def inside(self, kind: type[AnySpec], hint: Any, value: Any, path: tuple[str | int, ...]) -> Any:
        """A component inside a component, a list of them, or some by name. UNSET if anything is wrong with it."""
        form = type_name(hint).partition("[")[0]
        if form not in _FORMS:
            return self.component(kind, value, path) or msgspec.UNSET
        of, told, way = _FORMS[form]
        if not isinstance(value, of):
            self.say(
                path,
                f"{_header(path)} is {told} of components",
                f"write each as {way.format('.'.join(map(str, path)))}",
            )
            return msgspec.UNSET
        held = cast("dict[Any, Any]", value).items() if isinstance(value, dict) else enumerate(cast("list[Any]", value))
        made = {key: self.component(kind, each, (*path, key)) for key, each in held}
        if None in made.values():
            return msgspec.UNSET
        return made if isinstance(value, dict) else list(made.values())

    def table(self, table: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        if isinstance(table, dict):
            return dict(cast("dict[str, Any]", table))
        self.say(path, f"{_header(path)} must be a table", f"write {_header(path)} on a line of its own")
        return {}

    def say(self, path: tuple[str | int, ...], what: str, mend: str = "") -> None:
        self.problems.append(Problem(self.document.where(*path), what, mend))


def _collect(problems: list[Problem], work: Callable[[str], None], argument: str) -> None:
    try:
        work(argument)
    except UserError as error:
        problems.extend(error.problems)


def _header(path: Sequence[str | int]) -> str:
    named = ".".join(key for key in path if isinstance(key, str))
    return f"[[{named}]]" if isinstance(path[-1], int) else f"[{named}]"


def _look(into: type[msgspec.Struct]) -> str:
    return f"`truing show {into.kind} {into.name}` tells its options" if issubclass(into, Spec) else ""


def _meaning(hint: Any) -> str:
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, Meta) and note.description:
            return f"it is: {note.description}"
    return ""


def _plain_phase(phase: Phase) -> dict[str, Any]:
    return {**{key: plain(spec) for key, spec in phase.parts()}, "loop": _plain_options(phase.loop)}


def _place(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)

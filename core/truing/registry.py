"""Typed shelves of specs, one per kind, and what can be told of a spec without building it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing.fields import Field
from truing.stage import KINDS, AnySpec, component_of, hints_of

S = TypeVar("S", bound=AnySpec)


class Registry:
    """Every spec that some plugin brought. A name that comes twice within a kind is an error naming both plugins."""

    def __init__(self) -> None:
        self._shelves: dict[str, dict[str, type[AnySpec]]] = {kind: {} for kind in KINDS}
        self._plugin_of: dict[type[AnySpec], str] = {}

    def add(self, spec: type[AnySpec], plugin: str) -> None:
        """Put a spec on the shelf of its kind. Raises UserError on a name that is taken or missing."""
        if spec.kind not in self._shelves or not spec.name or not spec.target:
            what = f"{spec.__qualname__} is no complete spec: it needs a kind ({', '.join(KINDS)}), a name and a target"
            raise UserError(Problem(f"plugin {plugin}", what))
        taken = self._shelves[spec.kind].get(spec.name)
        if taken is not None:
            what = f'{spec.kind} "{spec.name}" comes from two plugins: {self._plugin_of[taken]} and {plugin}'
            raise UserError(Problem(f"plugin {plugin}", what, f"leave one out with --block {plugin}"))
        self._shelves[spec.kind][spec.name] = spec
        self._plugin_of[spec] = plugin

    def add_all(self, specs: Iterable[type[AnySpec]], plugin: str) -> None:
        """Put all that a plugin brings on the shelves, or nothing of it. Raises UserError."""
        before = {kind: dict(shelf) for kind, shelf in self._shelves.items()}
        try:
            for spec in specs:
                self.add(spec, plugin)
        except BaseException:
            self._shelves = before
            raise

    def get(self, kind: type[S], name: str, where: str = "") -> type[S]:
        """The spec of this kind and name. Raises UserError, with the closest name, at `where`."""
        found = self._shelves[kind.kind].get(name)
        if found is None:
            what = f'no {kind.kind} called "{name}"'
            close = did_you_mean(name, self._shelves[kind.kind])
            raise UserError(Problem(where, what, close or f"`truing list {kind.kind}` says which there are"))
        assert issubclass(found, kind)
        return found

    def shelf(self, kind: str) -> Mapping[str, type[AnySpec]]:
        """All specs of a kind, by name."""
        return dict(sorted(self._shelves[kind].items()))

    def plugin_of(self, spec: type[AnySpec]) -> str:
        """The plugin that brought a spec."""
        return self._plugin_of[spec]

    def providers(self, need: Field[Any], without: Collection[str] = ()) -> Iterable[str]:
        """Sentences that say which components would provide a field, those of some kinds left out."""
        for kind, shelf in self._shelves.items():
            if kind in without:
                continue
            for name, spec in sorted(shelf.items()):
                if need in spec.offers:
                    yield f'[{kind}] use = "{name}" {spec.offers[need]} provides it'


class Option(NamedTuple):
    """One option of a component, in words. default: None when the option must be given."""

    name: str
    type: str
    default: str | None
    range: str
    meaning: str


def options(spec: type[msgspec.Struct]) -> list[Option]:
    """The options of a spec as a person reads them."""
    hints = hints_of(spec)
    found: list[Option] = []
    for option in msgspec.structs.fields(spec):
        plain, meta = _unwrap(hints[option.name])
        found.append(Option(option.name, type_name(plain), _default(option), _range(meta), meta.get("description", "")))
    return found


def doc(spec: type[AnySpec]) -> str:
    """What the spec says it is."""
    return inspect.cleandoc(spec.__doc__ or "")


def sample(spec: type[AnySpec]) -> AnySpec:
    """A spec with its defaults, and any value that fits for an option that has none."""
    hints = hints_of(spec)
    required = [option.name for option in msgspec.structs.fields(spec) if option.required]
    return spec(**{name: _any_value(hints[name]) for name in required})


def type_name(hint: Any) -> str:
    """A type as it is written: `int | None`, `"a" | "b"`, `list[str]`."""
    origin = get_origin(hint)
    if origin is Annotated:
        return type_name(get_args(hint)[0])
    if origin is Literal:
        return " | ".join(f'"{choice}"' for choice in get_args(hint))
    if hint is type(None):
        return "none"
    if component_of(hint) is hint:
        return hint.kind
    if origin is None:
        return getattr(hint, "__name__", str(hint))
    inner = [type_name(argument) for argument in get_args(hint)]
    return (
        f"{origin.__name__}[{', '.join(inner)}]"
        if isinstance(origin, type) and origin.__name__ not in _UNIONS
        else " | ".join(inner)
    )


_UNIONS = ("UnionType", "Union")
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥", "max_length": "length ≤"}


def _any_value(hint: Any) -> Any:
    tried: tuple[Any, ...] = ("", 1, [], {}, *get_args(_unwrap(hint)[0]))
    for value in tried:
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError:
            continue
    return ""


def _unwrap(hint: Any) -> tuple[Any, dict[str, Any]]:
    if get_origin(hint) is not Annotated:
        return hint, {}
    plain, *notes = get_args(hint)
    found: dict[str, Any] = {}
    for note in notes:
        if isinstance(note, msgspec.Meta):
            found |= {key: value for key in (*_BOUNDS, "description") if (value := getattr(note, key)) is not None}
    return plain, found


def _range(meta: Mapping[str, Any]) -> str:
    return ", ".join(f"{sign} {meta[key]}" for key, sign in _BOUNDS.items() if key in meta)


def _default(option: msgspec.structs.FieldInfo) -> str | None:
    if option.default is not msgspec.NODEFAULT:
        value = option.default
    elif option.default_factory is not msgspec.NODEFAULT:
        value = option.default_factory()
    else:
        return None
    return "none" if value is None else msgspec.json.encode(value).decode()

"""Code that a model wrote in one process, tests of it in another, and plain data between them.

The process with the code knows neither the tests nor where their outcome goes; the process with the tests runs no line
of the code. So nothing that the code does to its interpreter makes a test pass: what it is called with comes to it, and
what it gives goes back, as numbers, texts, lists and the like, copied. Anything else stays where it is and is stood for
by a `Remote`. Such an object is equal to itself alone, so one that calls itself equal to everything gains nothing.
"""

from __future__ import annotations

import builtins
import json
import operator
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn, cast

LONGEST = 8 << 20
"""Bytes of the longest message that is listened to."""
MODULE = "solution"

Handle = Callable[[Any], int]
_CONTAINERS: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def packed(value: Any, handle: Handle) -> Any:
    """A value as JSON. handle: the number that stands for an object that is no plain data."""
    if value is None or isinstance(value, bool | int | float | str):
        # Subclasses, an IntEnum for example, are sent as what they are worth.
        kinds = (bool, int, float, str)
        return value if value is None else next(kind for kind in kinds if isinstance(value, kind))(value)
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, dict):
        some = cast("dict[Any, Any]", value)
        return ["dict", *([packed(key, handle), packed(entry, handle)] for key, entry in some.items())]
    for name, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return [name, *(packed(entry, handle) for entry in value)]
    return ["object", handle(value)]


def unpacked(value: Any, find: Callable[[int], Any]) -> Any:
    """The value of some JSON. find: the object that a number stands for. Raises ValueError for what is none."""
    if not isinstance(value, list):
        return value
    kind, *entries = cast("list[Any]", value)
    if kind == "bytes":
        return bytes.fromhex(entries[0])
    if kind == "complex":
        return complex(*entries)
    if kind == "dict":
        return {unpacked(key, find): unpacked(entry, find) for key, entry in entries}
    if kind == "object":
        return find(entries[0])
    return _CONTAINERS[kind](unpacked(entry, find) for entry in entries)


# --- where the code is ------------------------------------------------------------------------------------------------

_ARITHMETIC = {
    f"__{name}__": getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
}
_SPECIAL: dict[str, Callable[..., Any]] = {
    "__iter__": iter,
    "__next__": next,
    "__len__": len,
    "__bool__": bool,
    "__str__": str,
    "__repr__": repr,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__neg__": operator.neg,
    "__abs__": abs,
    **_ARITHMETIC,
}
"""What an object can be asked beside its attributes. Nothing that compares: what a test finds equal is not for the code
to say."""


def serve(hear: BinaryIO, tell: BinaryIO, given: Any) -> None:
    """Run code, then do what the tests ask of it, until they ask no more."""
    sys.set_int_max_str_digits(0)
    objects: list[Any] = []
    numbers: dict[int, int] = {}

    def handle(value: Any) -> int:
        if id(value) not in numbers:
            numbers[id(value)] = len(objects)
            objects.append(value)
        return numbers[id(value)]

    for line in hear:
        try:
            answer = _done(json.loads(line), objects, handle)
        except BaseException as error:  # the code may raise anything, SystemExit too; the tests hear of it
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            answer = {"raised": kinds[0], "text": f"{error}"[:1000]}
        tell.write(json.dumps(answer).encode() + b"\n")


def _done(request: dict[str, Any], objects: list[Any], handle: Handle) -> dict[str, Any]:
    if "code" in request:
        module = sys.modules[MODULE] = types.ModuleType(MODULE)
        exec(compile(request["code"], MODULE, "exec"), module.__dict__)  # noqa: S102 this is the sandbox
        names = {name: value for name, value in module.__dict__.items() if not name.startswith("__")}
        kept = {name: value for name, value in names.items() if not isinstance(value, types.ModuleType)}
        return {"value": packed(kept, handle)}
    target = objects[request["of"]]
    if "attribute" in request:
        return {"value": packed(getattr(target, request["attribute"]), handle)}
    arguments = unpacked(request["arguments"], objects.__getitem__)
    named = unpacked(request["named"], objects.__getitem__)
    special = request["special"]
    value = _SPECIAL[special](target, *arguments) if special else target(*arguments, **named)
    # What was done to the arguments comes back too: code may be asked to sort a list in place.
    return {"value": packed(value, handle), "arguments": packed(arguments, handle)}


# --- where the tests are ----------------------------------------------------------------------------------------------


class Code:
    """The code, as the process with the tests sees it: asked over one pipe, answering over another."""

    def __init__(self, hear: BinaryIO, tell: BinaryIO) -> None:
        self._hear, self._tell = hear, tell
        self._known: dict[int, Remote] = {}

    def names(self, code: str) -> dict[str, Any]:
        """What the code defines, once it ran. Raises what it raises."""
        return cast("dict[str, Any]", self._ask({"code": code})[0])

    def attribute(self, number: int, name: str) -> Any:
        return self._ask({"of": number, "attribute": name})[0]

    def call(self, number: int, special: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a call gives; its lists, dicts and sets are afterwards as the code left them."""
        sent = {"arguments": packed(list(arguments), _number_of), "named": packed(named, _number_of)}
        value, left = self._ask({"of": number, "special": special, **sent})
        for mine, theirs in zip(arguments, left, strict=True):
            if isinstance(mine, list) and mine != theirs:
                mine[:] = theirs
            elif isinstance(mine, dict | set) and mine != theirs:
                mine.clear()
                mine.update(theirs)
        return value

    def _ask(self, request: dict[str, Any]) -> tuple[Any, Any]:
        self._tell.write(json.dumps(request).encode() + b"\n")
        line = self._hear.readline(LONGEST)
        if not line.endswith(b"\n"):
            raise ConnectionError("the code ended, or answered at too great length")
        answer = json.loads(line)
        if "raised" in answer:
            _raise(answer["raised"], answer["text"])
        return unpacked(answer["value"], self._find), unpacked(answer.get("arguments", ["list"]), self._find)

    def _find(self, number: int) -> Remote:
        return self._known.setdefault(number, Remote(self, int(number)))


class Remote:
    """Stands for an object where the code is: it can be called, has attributes, and is equal to itself alone."""

    def __init__(self, code: Code, number: int) -> None:
        self.__dict__["_code"], self.__dict__["_number"] = code, number

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._code.call(self._number, "", arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._code.attribute(self._number, name)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError("tests may not set attributes of what the code made")


def _special(name: str) -> Callable[..., Any]:
    def ask(self: Remote, *arguments: Any) -> Any:
        # abs(f(x) - 2.5) < 1e-6 is a comparison, too.
        if name in _ARITHMETIC and not isinstance(arguments[0], Remote):
            return NotImplemented
        return self._code.call(self._number, name, arguments, {})

    return ask


for _name in _SPECIAL:
    setattr(Remote, _name, _special(_name))


def _number_of(value: Any) -> int:
    if isinstance(value, Remote):
        return cast(int, value.__dict__["_number"])
    raise TypeError(f"tests call code with plain data, and not with a {type(value).__name__}")


def _raise(kind: Any, text: Any) -> NoReturn:
    found = getattr(builtins, str(kind), None)
    fits = isinstance(found, type) and issubclass(found, BaseException) and not issubclass(found, UnicodeError)
    raise (found if fits else RuntimeError)(str(text))

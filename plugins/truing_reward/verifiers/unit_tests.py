"""The part of the process with the tests: runs them against the code in the other process, and tells how many passed.

A test is an `assert` or a call at the top of the file, a function test_...() without parameters, or a method of a
unittest.TestCase. Everything else at the top is preparation.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from truing_reward.verifiers.remote import MODULE, Code

Test = Callable[[], None]


def play(hear: BinaryIO, tell: BinaryIO, given: dict[str, Any]) -> None:
    """Run the tests once. given: the pipes to the code, and whether to go on when a test fails."""
    work = json.loads(hear.readline())
    sys.set_int_max_str_digits(0)
    with os.fdopen(given["hear"], "rb") as answers, os.fdopen(given["tell"], "wb", buffering=0) as questions:
        passed, count = run(work["tests"], work["code"], Code(answers, questions), given["partial"])
    tell.write(json.dumps([passed, count]).encode() + b"\n")


def run(tests: str, code: str, remote: Code, partial: bool) -> tuple[int, int]:
    """How many tests passed, of how many there are; 0 of 0 where the tests cannot be run at all.

    partial: go on when one fails; without it the first failure is the end, and what follows it is not counted.
    """
    try:
        top = ast.parse(tests).body
    except (SyntaxError, ValueError, RecursionError):
        return 0, 0
    names: dict[str, Any] = {}
    wrote = passes(lambda: names.update(remote.names(code)))
    # A test that calls `all` means Python's own, whatever the code defines.
    names = {name: value for name, value in names.items() if not name.startswith("__") and not hasattr(builtins, name)}
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    vars(module).update(names)
    space = {**names, "__name__": "tests"}
    passed = count = 0
    for test in _tests(top, space):
        count += 1
        if wrote and passes(test):
            passed += 1
        elif not partial:
            break
    return passed, count


def passes(test: Test) -> bool:
    """Does a test pass? Whatever it raises, SystemExit of the code too, is a failure."""
    try:
        test()
    except BaseException:
        return False
    return True


def _tests(top: list[ast.stmt], space: dict[str, Any]) -> Iterator[Test]:
    """Every test, prepared by what stands before it."""
    for statement in top:
        body = compile(ast.Module([statement], []), "tests", "exec")
        constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.Assert | ast.Expr) and not constant:
            yield lambda body=body: exec(body, space)  # noqa: S102 this is the sandbox
        elif not passes(lambda body=body: exec(body, space)):  # noqa: S102
            yield _unprepared
    for name, value in list(space.items()):
        if name.startswith("test_") and inspect.isfunction(value) and not inspect.signature(value).parameters:
            yield value
        elif isinstance(value, type) and "unittest" in sys.modules:
            yield from _cases(value)


def _cases(kind: type[Any]) -> Iterator[Test]:
    import unittest

    if not issubclass(kind, unittest.TestCase):
        return
    for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind):
        yield lambda case=case: _checked(case)


def _checked(case: Any) -> None:
    assert case.run().wasSuccessful()


def _unprepared() -> None:
    raise RuntimeError("what comes before the tests failed")

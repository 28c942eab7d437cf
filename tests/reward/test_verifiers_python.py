"""Code that a model wrote, under test: right code passes, and no trick, accident or attack does or disturbs others."""

from __future__ import annotations

import os
import socket
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.reward.conftest import Judged, judged

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import ANSWERS, COMPLETIONS, GROUP, Batch
from truing.run import Run
from truing_reward.menu_verifiers import PythonTests
from truing_reward.verifiers.remote import packed, unpacked
from truing_reward.verifiers.sandbox import cores, refusal

APART = refusal(namespaces=True) == ""
MODES = [
    pytest.param("namespaces", marks=pytest.mark.skipif(not APART, reason="this system permits no namespaces")),
    "limits",
]
TESTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(-1, 1) == 0"
RIGHT = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module", params=MODES)
def sandbox(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def scorer(sandbox: str) -> Judged:
    return Judged(PythonTests(sandbox=sandbox, seconds=20, memory=256, disk=4, processes=6))  # pyright: ignore


def score(scorer: Judged, code: str, tests: str = TESTS) -> float:
    return scorer(textwrap.dedent(tests), [textwrap.dedent(code)]).scores[0]


# --- what is right ----------------------------------------------------------------------------------------------------


def test_right_code_passes_and_wrong_code_does_not(scorer: Judged) -> None:
    wrong = "def add(a, b):\n    return a - b\n"
    fenced = f"Here it is:\n```python\n{RIGHT}```\nIt adds."
    assert scorer(TESTS, [RIGHT, wrong, fenced, "", "I cannot.", "def add(a, b:"]).scores == [1, 0, 1, 0, 0, 0]


def test_the_share_of_tests_that_pass_may_count(sandbox: str) -> None:
    half = Judged(PythonTests(partial=True, sandbox=sandbox))  # pyright: ignore
    tests = TESTS + "\nimport unknown_module"
    assert half(TESTS, ["def add(a, b):\n    return b * 0", RIGHT, "x"]).scores == [pytest.approx(2 / 3), 1, 0]
    assert half(tests, [RIGHT]).scores == [pytest.approx(3 / 4)]


def test_tests_may_be_functions_and_cases_and_calls(scorer: Judged) -> None:
    tests = """
        import math
        import unittest
        from solution import add, half

        def check(candidate):
            assert math.isclose(candidate(0.1, 0.2), 0.3)

        class TestAdd(unittest.TestCase):
            def test_texts(self):
                self.assertEqual(add("a", "b"), "ab")

            def test_refusal(self):
                with self.assertRaises(TypeError):
                    add(1, "b")
                with self.assertRaisesRegex(ValueError, "odd"):
                    half(3)

        def test_lists():
            assert add([1], [2]) == [1, 2]

        check(add)
    """
    right = RIGHT + "def half(n):\n    if n % 2:\n        raise ValueError(f'{n} is odd')\n    return n // 2\n"
    assert score(scorer, right, tests) == 1
    for broken in ("is odd", "n % 2", "return a + b"):
        assert score(scorer, right.replace(broken, "0"), tests) == 0, broken


def test_objects_stay_where_they_are_and_can_be_used(scorer: Judged) -> None:
    code = """
        from dataclasses import dataclass

        @dataclass
        class Vector:
            x: int
            y: int

            def __add__(self, other):
                return Vector(self.x + other.x, self.y + other.y)

            def scaled(self, by):
                return Vector(self.x * by, self.y * by)

        class Stack:
            def __init__(self):
                self.items = []

            def push(self, item):
                self.items.append(item)
                return self

            def __len__(self):
                return len(self.items)

        def count(n):
            yield from range(n)

        LIMIT = (1, {"a": {2, 3}}, b"x", 1j, None, 2.5)
    """
    tests = """
        assert (Vector(1, 2) + Vector(y=4, x=3)).scaled(2).x == 8
        s = Stack()
        assert len(s.push(1).push("b")) == 2
        assert s.items == [1, "b"]
        assert list(count(3)) == [0, 1, 2]
        assert next(count(3)) == 0
        assert LIMIT == (1, {"a": {2, 3}}, b"x", 1j, None, 2.5)
        assert s.push(2) == s
        assert Stack() != Stack()
    """
    assert score(scorer, code, tests) == 1


def test_what_code_does_to_its_arguments_is_seen(scorer: Judged) -> None:
    code = "def sort(some):\n    some.sort()\ndef put(d):\n    d['k'] = [1]\n"
    tests = "x = [3, 1, 2]\nsort(x)\nassert x == [1, 2, 3]\nd = {}\nput(d)\nassert d == {'k': [1]}"
    assert score(scorer, code, tests) == 1
    assert score(scorer, code.replace("some.sort()", "return sorted(some)"), tests) == 0


def test_large_numbers_are_numbers(scorer: Judged) -> None:
    code = "def power(n):\n    return 10 ** n\n"
    assert score(scorer, code, "assert power(20_000) == 10 ** 20_000\nassert power(-1) == 0.1") == 1


def test_tests_that_are_none_are_told_of(scorer: Judged) -> None:
    for tests in ("", "x = 1", "assert ("):
        before = scorer.scorer.counts["unknown"]
        assert score(scorer, RIGHT, tests) == 0
        assert scorer.scorer.counts["unknown"] == before + 1


# --- what is not ------------------------------------------------------------------------------------------------------

TRICKS = {
    "leaves with success": "import os\nos._exit(0)",
    "leaves when called": "import os\ndef add(a, b):\n    os._exit(0)",
    "raises SystemExit": "raise SystemExit(0)",
    "raises SystemExit when called": "import sys\ndef add(a, b):\n    sys.exit(0)",
    "says that it passed": "print('[3, 3]')\nprint('passed', flush=True)",
    "writes everywhere": """
        import os
        for stream in range(64):
            try:
                os.write(stream, b'[3, 3]\\n' * 3)
            except OSError:
                pass
        os._exit(0)
    """,
    "answers before it is asked": """
        import os
        for stream in range(64):
            try:
                os.write(stream, b'{"value": ["dict", ["add", null]], "arguments": ["list"]}\\n' * 9)
            except OSError:
                pass
    """,
    "is equal to everything": """
        class Anything:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __bool__(self): return True
            def __getattr__(self, name): return self
            def __call__(self, *_): return self
        def add(a, b):
            return Anything()
        __builtins__['AssertionError'] = Anything()
    """,
    "is as near to everything as may be": """
        class Near:
            def __sub__(self, other): return 0
            __add__ = __rsub__ = __abs__ = __float__ = __sub__
            def __lt__(self, other): return True
            __le__ = __gt__ = __ge__ = __lt__
            def __contains__(self, other): return True
        def add(a, b):
            return Near()
    """,
    "brings builtins of its own": """
        import os
        for stream in range(64):
            try:
                forged = b'{"value": ["dict", ["__builtins__", ["dict", ["abs", 0], ["add", ["object", 0]]]]]}\\n'
                os.write(stream, forged + b'{"value": 0, "arguments": ["list", 1, 2]}\\n' * 9)
            except OSError:
                pass
    """,
    "is an int that is equal to everything": """
        class Anything(int):
            def __eq__(self, other): return True
            __hash__ = None
        def add(a, b):
            return Anything(7)
    """,
    "takes the words of the tests": """
        import builtins, unittest, sys
        builtins.AssertionError = builtins.print
        def all(*_): return True
        def isinstance(*_): return True
        def add(a, b): return 7
    """,
    "looks for the tests": """
        import gc, sys
        found = [o for o in gc.get_objects() if isinstance(o, str) and 'assert' in o]
        frame = sys._getframe()
        while frame:
            frame.f_globals['_done'] = lambda *_: {"value": True}
            frame.f_locals['answer'] = {"value": True}
            frame = frame.f_back
        def add(a, b): return None
    """,
    "kills its parents": """
        import os, signal
        for number in (os.getppid(), 1):
            for kind in (signal.SIGINT, signal.SIGKILL):
                try:
                    os.kill(number, kind)
                except OSError:
                    pass
        def add(a, b): return 3
    """,
    "says nothing for ever": "def add(a, b):\n    while True:\n        pass",
    "sleeps for ever": "import time\ntime.sleep(1000)",
    "ignores being told to end": """
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            time.sleep(1)
    """,
    "fills memory": "x = []\nwhile True:\n    x.append(bytearray(1 << 22))",
    "fills memory at once": "x = b'0' * (1 << 40)",
    "answers at too great length": "def add(a, b):\n    return 'x' * (20 << 20)",
    "nests too deep": "x = []\nfor _ in range(100_000):\n    x = [x]\ndef add(a, b):\n    return x",
    "is in a circle": "x = []\nx.append(x)\ndef add(a, b):\n    return x",
    "fills the disk": """
        with open('full', 'wb') as file:
            while True:
                file.write(b'0' * (1 << 20))
    """,
    "overflows the stack": "import sys\nsys.setrecursionlimit(1 << 30)\ndef add(a, b):\n    return add(a, b)",
    "breaks its own interpreter": "import ctypes\nctypes.string_at(0)",
    "deletes what it can find of itself": """
        import os, sys
        for name in list(sys.modules):
            del sys.modules[name]
    """,
}
UNSURE = "assert abs(add(1, 2) - 3) < 1e-9 or 3 in add(1, 2)\nassert abs(add(2, 2) - 4) < 1e-9 or add(2, 2) <= 4"
LONG = {"says nothing for ever", "sleeps for ever", "ignores being told to end", "overflows the stack"}


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_scores_nothing_and_the_next_one_is_judged_as_ever(sandbox: str, scorer: Judged, name: str) -> None:
    if name == "kills its parents" and sandbox == "limits":
        pytest.skip("limits alone do not keep it from that")
    code = textwrap.dedent(TRICKS[name])
    quick = PythonTests(sandbox=sandbox, seconds=1.5, memory=256, disk=4, processes=6)  # pyright: ignore
    began = time.perf_counter()
    tests = UNSURE if "near" in name or "builtins" in name else TESTS
    assert (judged(quick, tests, [code]) if name in LONG else scorer(tests, [code])).scores == [0]
    assert time.perf_counter() - began < 30
    assert score(scorer, RIGHT) == 1


@pytest.mark.skipif(
    not APART and os.getuid() == 0, reason="without namespaces nothing holds processes of root to a limit"
)
def test_forks_without_end_disturb_nobody() -> None:
    sandbox = "namespaces" if APART else "limits"
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    spec = PythonTests(sandbox=sandbox, seconds=3, processes=4)  # pyright: ignore
    assert judged(spec, TESTS, [RIGHT, bomb, RIGHT, bomb, RIGHT]).scores == [1, 0, 1, 0, 1]


def test_processes_that_it_leaves_behind_are_ended(scorer: Judged) -> None:
    mark = f"{os.getpid()}{time.time_ns()}"
    code = f"""
        import os, sys, time
        for double in range(2):
            if os.fork() == 0:
                os.setsid()
                if double and os.fork():
                    os._exit(0)
                os.environ.clear()
                os.execv({os.path.realpath("/bin/sleep")!r}, ['sleep', '1000.{mark}'])
        def add(a, b):
            return a + b
    """
    assert score(scorer, code) == 1
    assert [name for name in os.listdir("/proc") if name.isdigit() and mark in commandline(name)] == []


def commandline(number: str) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_it_knows_nothing_of_the_environment(scorer: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_RUN", "x")
    code = "import os, sys\ndef names():\n    return sorted(os.environ), sys.path[:1]\n"
    tests = """
        names, path = names()
        assert "SECRET_OF_THE_RUN" not in names
        known = "HOME LANG LC_CTYPE LD_LIBRARY_PATH OMP_NUM_THREADS PATH PYTHONHASHSEED TMPDIR"
        assert set(names) <= set(known.split()), names
        assert path[0].endswith(".zip")
    """
    assert score(scorer, code, tests) == 1


def test_nothing_is_left_of_what_it_writes(scorer: Judged, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = """
        import os
        os.makedirs('a/b')
        open('a/b/file', 'w').write('x')
        os.symlink('/', 'root')
        os.chmod('a/b', 0)
        os.chmod('a', 0)
        def add(a, b):
            return a + b
    """
    assert score(scorer, code) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not APART, reason="this system permits no namespaces")
def test_in_namespaces_there_are_no_files_of_the_user_no_network_and_no_privileges(tmp_path: Path) -> None:
    scorer = Judged(PythonTests())
    secret = tmp_path / "secret"
    secret.write_text("x")
    tmp_path.chmod(0o777)
    secret.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
            import ctypes, os, socket
            def tries(what, *given):
                try:
                    what(*given)
                except Exception as error:
                    return type(error).__name__
                return "done"
            def outcome():
                port = {server.getsockname()[1]}
                return [
                    tries(open, {str(secret)!r}),
                    tries(os.remove, {str(secret)!r}),
                    tries(os.listdir, "/proc"),
                    tries(open, "/etc/passwd"),
                    tries(open, os.path.join(os.path.dirname(os.__file__), "new"), "w"),
                    tries(socket.create_connection, ("127.0.0.1", port), 2),
                    tries(os.kill, 1, 9) and "tried",
                    tries(os.setuid, 0),
                    tries(os.chroot, "/tmp"),
                ], [os.getpid() < 10, os.getuid() != 0, os.path.exists("/proc")], sorted(os.listdir("/"))
            def again():
                library = ctypes.CDLL(None, use_errno=True)
                return [library.unshare(flag) for flag in (0x10000000, 0x20000, 0x40000000)]
        """
        tests = """
            found, self, top = outcome()
            assert found[:5] == ["FileNotFoundError"] * 4 + ["OSError"], found
            assert found[5] in ("OSError", "ConnectionRefusedError"), found
            assert found[7] in ("OSError", "PermissionError"), found
            assert found[8] == "PermissionError", found
            assert self == [True, True, False]
            assert not {"home", "var", "proc", "sys", "run"} & set(top), top
            assert again() == [-1, -1, -1]
        """
        assert scorer(textwrap.dedent(tests), [textwrap.dedent(code)]).scores == [1]
    assert secret.read_text() == "x"


def test_several_are_judged_at_a_time_and_no_more_than_there_are_cores(sandbox: str) -> None:
    spec = PythonTests(sandbox=sandbox, seconds=20)  # pyright: ignore
    nap = "import time\ntime.sleep(1)\n" + RIGHT
    began = time.perf_counter()
    assert judged(spec, TESTS, [nap] * 2 * cores()).scores == [1] * 2 * cores()
    assert time.perf_counter() - began >= 2


def test_who_waits_no_longer_leaves_nothing_behind(sandbox: str) -> None:
    mark = f"{os.getpid()}{time.time_ns()}"
    scorer = PythonTests(sandbox=sandbox, seconds=600).build(Run("test", Path(), 0, Bus()))  # pyright: ignore
    code = f"import os\nos.execv({os.path.realpath('/bin/sleep')!r}, ['sleep', '1000.{mark}'])"
    batch = Batch({ANSWERS: [TESTS], COMPLETIONS: [code] * 4, GROUP: torch.zeros(4, dtype=torch.int64)})

    async def impatient() -> bool:
        with anyio.move_on_after(2) as scope:
            await scorer.score(batch)
        return scope.cancelled_caught

    began = time.perf_counter()
    assert anyio.run(impatient)
    assert time.perf_counter() - began < 10
    assert [name for name in os.listdir("/proc") if name.isdigit() and mark in commandline(name)] == []


def test_a_sandbox_that_cannot_be_made_is_told_of_when_the_scorer_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing_reward.verifiers.python_tests.refusal", lambda namespaces: "unshare: not permitted")
    with pytest.raises(UserError, match=r"no sandbox here: unshare: not permitted\n.*sandbox = \"limits\""):
        PythonTests().build(Run("test", Path(), 0, Bus()))


# --- what crosses -----------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.tuples(st.integers()), inner, max_size=3)
        | st.sets(st.integers() | st.text(max_size=3), max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None, database=None)
@given(plain)
def test_plain_data_crosses_as_it_is(value: Any) -> None:
    def never(_: Any) -> Any:
        raise AssertionError("nothing here is an object")

    again = unpacked(packed(value, never), never)
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, set | frozenset | dict | list | tuple)

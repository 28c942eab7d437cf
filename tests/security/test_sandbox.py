"""Ways out of the sandbox, each tried for real: what the run holds is set up outside, and code inside reaches for it.

Tricks that forge a verdict, fork, fill memory and disk or never end are in `tests/reward/test_verifiers_python.py`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import socket
import struct
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reward.conftest import Judged

from truing_reward.menu_verifiers import PythonTests
from truing_reward.verifiers import calls
from truing_reward.verifiers.sandbox import Ended, Sandbox, refusal

pytestmark = [
    pytest.mark.skipif(refusal(namespaces=True) != "", reason="this system permits no namespaces"),
    pytest.mark.skipif(platform.machine() not in calls.MACHINES, reason="no filter of calls for this processor"),
]
LIMITS = {"memory": 256, "disk": 4, "cpu": 20, "processes": 6}
OF_A_SCORER = {"seconds": 20, "memory": 256, "disk": 4, "processes": 6}
KEY, SHARED = b"truing-test-key", 0x74727565
X86 = platform.machine() == "x86_64"
NUMBERS = {"add_key": 248 if X86 else 217, "keyctl": 250 if X86 else 219, "bpf": 321 if X86 else 280}
NUMBERS |= {"ptrace": 101 if X86 else 117, "process_vm_readv": 310 if X86 else 270, "io_uring_setup": 425}
NUMBERS |= {"userfaultfd": 323 if X86 else 282, "open_by_handle_at": 304 if X86 else 265}
LIBRARY = ctypes.CDLL(None, use_errno=True)

HEAD = """
import ctypes, errno, os, signal, socket
library = ctypes.CDLL(None, use_errno=True)
def call(number, *given):
    if library.syscall(number, *given) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def connect(family, place):
    with socket.socket(family) as made:
        made.settimeout(2)
        made.connect(place)
def read(path):
    with open(path) as file:
        return file.read()
def attempt(reach):
    try:
        reach()
    except (OSError, ValueError) as error:
        return errno.errorcode.get(getattr(error, "errno", None), "refused")
    return "REACHED"
"""
ATTEMPTS = {
    "the environment of the run": "read('/proc/{pid}/environ')",
    "the memory of the run, as a file": "read('/proc/{pid}/mem')",
    "the memory of the run, by a call": "call({process_vm_readv}, {pid}, 0, 0, 0, 0, 0)",
    "the run as its debugger": "call({ptrace}, 16, {pid}, 0, 0)",
    "the run, to end it": "os.kill({pid}, signal.SIGTERM)",
    "the group of the run, to end it": "os.killpg({group}, signal.SIGTERM)",
    "keys of the session": "call({keyctl}, 10, ctypes.c_int(-3), b'user', {key!r}, 0)",
    "keys, to leave one behind": "call({add_key}, b'user', b'x', b'y', 1, ctypes.c_int(-3))",
    "a file by its handle": "call({open_by_handle_at}, 0, 0, 0)",
    "a secret of the user": "read({secret!r})",
    "a secret over a link": "os.symlink({secret!r}, 'link'); read('link')",
    "a secret from below": "read('/tmp' + '/..' * 20 + {secret!r})",
    "a socket of the machine": "connect(socket.AF_UNIX, {path!r})",
    "a socket without a file": "connect(socket.AF_UNIX, chr(0) + {name!r})",
    "a server of the machine": "connect(socket.AF_INET, ('127.0.0.1', {port}))",
    "a server elsewhere": "connect(socket.AF_INET, ('192.0.2.1', 80))",
    "the host of a virtual machine": "socket.socket(40, socket.SOCK_STREAM)",
    "the kernel's own sockets": "socket.socket(16, socket.SOCK_RAW)",
    "shared memory": "call = library.shmget({shared}, 0, 0)\n    if call < 0: raise OSError('refused')",
    "io_uring": "call({io_uring_setup}, 8, ctypes.create_string_buffer(200))",
    "bpf": "call({bpf}, 0, 0, 0)",
    "userfaultfd": "call({userfaultfd}, 1)",
    "a device": "read('/dev/mem' if os.path.exists('/dev/mem') else '/dev/kmsg')",
    "the system, to write": "open(os.path.join(os.path.dirname(os.__file__), 'os.py'), 'a')",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What is there to be reached, and by what."""
    folder = tmp_path_factory.mktemp("outside")
    folder.chmod(0o777)
    secret = folder / "secret"
    secret.write_text("secret")
    name = f"truing-{os.getpid()}"
    path = str(Path(os.path.relpath(folder / "s")) if len(str(folder)) > 90 else folder / "s")
    LIBRARY.syscall(NUMBERS["add_key"], b"user", KEY, b"secret", 6, ctypes.c_int(-3))
    memory = LIBRARY.shmget(SHARED, 4096, 0o1666)
    with (
        socket.socket(socket.AF_UNIX) as one,
        socket.socket(socket.AF_UNIX) as two,
        socket.create_server(("", 0)) as net,
    ):
        one.bind(path)
        two.bind("\0" + name)
        one.listen()
        two.listen()
        here = {"pid": os.getpid(), "group": os.getpgid(0), "secret": str(secret), "path": path, "name": name}
        yield {**NUMBERS, **here, "port": net.getsockname()[1], "key": KEY, "shared": SHARED}
    LIBRARY.shmctl(memory, 0, None)
    assert secret.read_text() == "secret"


def written(what: str, outside: dict[str, Any]) -> str:
    return f"def reach():\n    {ATTEMPTS[what].format(**outside)}\n"


def test_code_under_test_reaches_nothing_of_the_run_or_the_machine(outside: dict[str, Any]) -> None:
    tried = "".join(f"{written(what, outside)}found[{what!r}] = attempt(reach)\n" for what in ATTEMPTS)
    sandbox = Sandbox("code", None, LIMITS, namespaces=True)
    try:
        answer = sandbox.ask(json.dumps({"code": f"{HEAD}found = {{}}\n{tried}"}).encode() + b"\n", 60)
    finally:
        sandbox.end()
    found = dict(dict(answer["value"][1:])["found"][1:])
    assert found.keys() == ATTEMPTS.keys()
    assert "REACHED" not in found.values(), found


def test_what_is_to_be_reached_is_there(outside: dict[str, Any]) -> None:
    """The same attempts outside: else their failure inside would say nothing."""
    there = ("the environment of the run", "a secret of the user", "a socket of the machine", "a socket without a file")
    for what in (*there, "a server of the machine", "shared memory"):
        space: dict[str, Any] = {}
        exec(f"{HEAD}{written(what, outside)}found = attempt(reach)", space)  # noqa: S102
        assert space["found"] == "REACHED", what


def test_it_has_no_streams_but_to_nowhere_and_to_the_tests() -> None:
    code = """
        import os, stat
        def streams():
            found = []
            for number in range(256):
                try:
                    kind = os.fstat(number).st_mode
                except OSError:
                    continue
                found.append("pipe" if stat.S_ISFIFO(kind) else os.readlink if stat.S_ISREG(kind) else "null"
                             if os.fstat(number).st_rdev == os.stat("/dev/null").st_rdev else "other")
            return found
    """
    tests = "assert streams() == ['null'] * 3 + ['pipe'] * 2"
    scorer = Judged(PythonTests(**OF_A_SCORER))  # pyright: ignore
    assert scorer(tests, [textwrap.dedent(code)]).scores == [1]


def test_a_flood_of_words_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys\nfor _ in range(60):\n    print('x' * 1_000_000)\n    print('x' * 1_000_000, file=sys.stderr)\n"
    scorer = Judged(PythonTests(**OF_A_SCORER))  # pyright: ignore
    assert scorer("assert x() == 1", [code + "def x():\n    return 1\n"]).scores == [1]
    assert capfd.readouterr() == ("", "")


def test_a_judge_that_answers_without_end_is_ended_before_it_fills_the_memory_of_the_run() -> None:
    sandbox = Sandbox("code", None, LIMITS, namespaces=True)
    flood = "import os\nwhile True:\n    os.write(4, b'x' * 65536)\n"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with pytest.raises(Ended):
            sandbox.ask(json.dumps({"code": flood}).encode() + b"\n", 60)
    finally:
        sandbox.end()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_where_memory_runs_out_code_goes_before_the_run() -> None:
    code = "def order():\n    return int(open('/proc/self/oom_score_adj').read())\n"
    scorer = Judged(PythonTests(sandbox="limits", **OF_A_SCORER))  # pyright: ignore
    assert scorer("assert order() == 1000", [code]).scores == [1]
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000


@pytest.mark.parametrize("machine", calls.MACHINES.values(), ids=list(calls.MACHINES))
def test_the_filter_refuses_what_is_named_and_nothing_else(machine: calls.Machine) -> None:
    """The program, run by hand: a call of its own architecture that is not named goes through."""

    def outcome(architecture: int, number: int, argument: int = 0) -> bool:
        shown = {calls.ARCHITECTURE: architecture, calls.NUMBER: number, calls.FIRST_ARGUMENT: argument}
        lines = [struct.unpack("=HBBI", line) for line in calls.program(machine)]
        at = loaded = 0
        while True:
            code, then, other, value = lines[at]
            at += 1
            if code == calls.LOAD:
                loaded = shown[value]
            elif code == calls.RETURN:
                return value == calls.ALLOW
            else:
                at += then if (loaded == value if code == calls.EQUAL else loaded >= value) else other

    for number in range(600):
        expected = number not in machine.refused and number != machine.socket
        assert outcome(machine.architecture, number) == expected, number
    assert not outcome(machine.architecture + 1, 0)
    assert not outcome(machine.architecture, calls.OTHER_ABI + 1)
    for family in range(50):
        assert outcome(machine.architecture, machine.socket, family) == (family in (1, 2, 10))

"""Which calls of the kernel a sandbox does without. Runs inside the sandbox, on the standard library alone.

Namespaces hide files, processes and the network. They do not hide the keys that the user's session holds, nor sockets
to the host of a virtual machine, nor the parts of the kernel in which most ways out were found. None of that is needed
to run code under test, so it is refused with EPERM, by a filter that every process it starts inherits (seccomp(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

PR_SET_SECCOMP, MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""where they stand in what a filter is shown of a call; of the argument, the half that counts"""
OTHER_ABI = 0x40000000
"""numbers from here on are those of x32, the same calls once more"""
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
"""sockets that may be made; in namespaces they lead nowhere"""

_EVERYWHERE = {
    **dict.fromkeys((425, 426, 427), "io_uring"),
    **dict.fromkeys((428, 429, 430, 431, 432, 433, 442), "mounts"),
    438: "pidfd_getfd",
}


class Machine(NamedTuple):
    """The numbers of a processor. architecture: as the kernel's audit has it. socket: the call that makes one. refused:
    what for, by number."""

    architecture: int
    socket: int
    refused: Mapping[int, str]


MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        41,
        {
            **dict.fromkeys((248, 249, 250), "keys"),
            **dict.fromkeys((101, 310, 311, 312), "other processes"),
            **dict.fromkeys((155, 165, 166, 272, 308), "mounts and namespaces"),
            **dict.fromkeys((175, 176, 246, 313, 320), "code of the kernel"),
            **dict.fromkeys((298, 303, 304, 321, 323), "perf, handles, bpf, userfaultfd"),
            **_EVERYWHERE,
        },
    ),
    "aarch64": Machine(
        0xC00000B7,
        198,
        {
            **dict.fromkeys((217, 218, 219), "keys"),
            **dict.fromkeys((117, 270, 271, 272), "other processes"),
            **dict.fromkeys((39, 40, 41, 97, 268), "mounts and namespaces"),
            **dict.fromkeys((104, 105, 106, 273, 294), "code of the kernel"),
            **dict.fromkeys((241, 264, 265, 280, 282), "perf, handles, bpf, userfaultfd"),
            **_EVERYWHERE,
        },
    ),
}


def refuse(machine: str) -> None:
    """Have this process, and all it starts, do without. It has given up its privileges before. Raises OSError where
    that cannot be."""
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no filter of calls for {machine}")
    lines = list(program(MACHINES[machine]))
    code = ctypes.create_string_buffer(b"".join(lines), 8 * len(lines))
    # struct sock_fprog: how many lines, and where they are.
    told = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(code)))
    if _LIBRARY.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(told), 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def program(machine: Machine) -> Iterator[bytes]:
    """The filter, line by line: of another architecture everything is refused."""
    yield _line(LOAD, ARCHITECTURE)
    yield from _refused_unless([machine.architecture])
    yield _line(LOAD, NUMBER)
    yield _line(AT_LEAST, OTHER_ABI, then=0, other=1)
    yield _line(RETURN, REFUSE)
    for number in sorted(machine.refused):
        yield _line(EQUAL, number, then=0, other=1)
        yield _line(RETURN, REFUSE)
    yield _line(EQUAL, machine.socket, then=1, other=0)
    yield _line(RETURN, ALLOW)
    yield _line(LOAD, FIRST_ARGUMENT)
    yield from _refused_unless(FAMILIES)
    yield _line(RETURN, ALLOW)


def _refused_unless(values: Iterable[int]) -> Iterator[bytes]:
    """Go on behind this if what was loaded is one of these values."""
    some = list(values)
    for left, value in zip(reversed(range(len(some))), some, strict=True):
        yield _line(EQUAL, value, then=left + 1, other=0)
    yield _line(RETURN, REFUSE)


def _line(code: int, value: int, then: int = 0, other: int = 0) -> bytes:
    """struct sock_filter. then, other: lines to leave out."""
    return struct.pack("=HBBI", code, then, other, value)


_LIBRARY = ctypes.CDLL(None, use_errno=True)

"""What a process gives up before it touches what a model wrote. Runs inside the sandbox, on the standard library alone.

    launcher     outside: waits, and ends everything when it is told to or its child ends
      keeper     first process of new namespaces: when it ends, the kernel ends every process in them
        worker   no network, no files but the interpreter's, no other processes, no privileges

Without namespaces the launcher's child is the worker, in the user's own world, with limits on what it may use. Orphans
come back to the launcher, which ends them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from truing_reward.verifiers import calls

NEW_NS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY, ATTR_NOSUID = 442, -100, 0x8000, 1, 2
CAPABILITY_VERSION = 0x20080522

LINUX = sys.platform == "linux"
NOBODY = 65534
ROOT = "/tmp"
"""Where the new root is put together: a folder that every system has, hidden by it for those inside."""
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class Limits(NamedTuple):
    """What a process may use. memory, disk: MiB; cpu: seconds, 0 for no limit; processes: itself and its threads."""

    memory: int
    disk: int
    cpu: int
    processes: int


def isolated(work: Callable[[], None], limits: Limits, visible: Sequence[str], namespaces: bool) -> NoReturn:
    """Do some work in a child that has given up what it does not need, and end as it ends. Raises OSError, in the
    process that met it, for what this system does not permit.

    visible: folders that namespaces leave in view, to be read.
    """
    if namespaces:
        _leave()
    elif LINUX:
        _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _below(namespaces)
    if LINUX:
        _go_first()
    if namespaces:
        _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _furnish(visible, limits.disk)
        _below(namespaces)
        _lock_in()
    _limit(limits, namespaces)
    if LINUX:
        _give_up(namespaces)
    work()
    os._exit(0)


def _leave() -> None:
    """Enter new namespaces: with the privileges of root, or in a user namespace of one's own."""
    user, group = os.getuid(), os.getgid()
    apart = NEW_NS | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET
    try:
        _call("unshare", apart)
    except PermissionError:
        _call("unshare", apart | NEW_USER)
        _map(user, group)


def _map(user: int, group: int) -> None:
    """Be nobody inside of a new user namespace."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _below(namespaces: bool) -> None:
    """Go on in a child. The parent stays until the child ends, and ends every process that is left when it does."""
    child = os.fork()
    if not child:
        return

    def end(*_: object) -> None:
        # It may have ended by itself; then what it left is being ended, and that goes on.
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    # The kernel ends what is left in namespaces, when their first process ends.
    while not namespaces and (left := _children()):
        for orphan in left:
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _children() -> list[int]:
    """Processes whose parent this one is, those included that lost theirs."""
    found: list[int] = []
    for name in os.listdir("/proc") if LINUX else []:
        with suppress(OSError):
            # number (name) state parent ...; a name may hold anything, brackets too
            if name.isdigit() and int(_text(f"/proc/{name}/stat").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


def _text(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def _go_first() -> None:
    """Where the machine runs out of memory, this is ended and not the run."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _furnish(visible: Sequence[str], disk: int) -> None:
    """Put a new root together: the system's libraries and what is visible, to be read, and a /tmp of `disk` MiB."""
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    # Opened before ROOT is covered, in case one of them lies there.
    there = {path: os.open(path, os.O_PATH) for path in _outermost([*SYSTEM, *DEVICES, *visible])}
    _mount("tmpfs", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path, opened in there.items():
        inside = ROOT + path
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            os.mkdir(inside)
        else:
            open(inside, "x").close()
        _mount(f"/proc/self/fd/{opened}", inside, "", MS_BIND | MS_REC)
        _read_only(inside, AT_RECURSIVE)
        os.close(opened)
    for path in SYSTEM:
        if os.path.islink(path):
            os.symlink(os.readlink(path), ROOT + path)
    os.makedirs(ROOT + "/tmp", exist_ok=True)
    _mount("tmpfs", ROOT + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={disk}m,mode=1777,nr_inodes=8192")
    _read_only(ROOT, 0)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Those that are there, are no links of the system's own, and lie in no other."""
    found: list[str] = []
    for path in sorted(path for path in set(paths) if os.path.exists(path)):
        link = path in SYSTEM and os.path.islink(path)
        if not link and not any(path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def _lock_in() -> None:
    """Be nobody, with the new root for a root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # A change of user takes a process's own files in /proc away from it; and processes are counted anew inside of a
        # user namespace, so that one sandbox cannot use up what another may start.
        _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
        _call("unshare", NEW_USER)
        _map(NOBODY, NOBODY)
    os.chroot(ROOT)
    os.chdir("/tmp")


def _give_up(namespaces: bool) -> None:
    """Have no privileges, never get any, let no process of the same user look inside, and do without some calls."""
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(header), ctypes.byref(nothing))
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    if namespaces or os.uname().machine in calls.MACHINES:
        calls.refuse(os.uname().machine)


def _limit(limits: Limits, alone: bool) -> None:
    """Limits of the kernel. alone: no process of the user's counts but those inside."""
    mega = 1 << 20
    _at_most(resource.RLIMIT_AS, limits.memory * mega)
    _at_most(resource.RLIMIT_FSIZE, limits.disk * mega)
    _at_most(resource.RLIMIT_CORE, 0)
    _at_most(resource.RLIMIT_NOFILE, 128)
    if limits.cpu:
        _at_most(resource.RLIMIT_CPU, limits.cpu)
    # Two more: launcher and keeper.
    _at_most(resource.RLIMIT_NPROC, limits.processes + (2 if alone else _running()))


def _at_most(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _running() -> int:
    """How many processes and threads the user has."""
    count = 0
    for name in os.listdir("/proc") if LINUX else []:
        with suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    said = [text.encode() or None for text in (source, target, kind)]
    _call("mount", *said, ctypes.c_ulong(flags), options.encode() or None)


def _read_only(path: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", ctypes.c_long(MOUNT_SETATTR), AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size)


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library. Raises OSError with what it says went wrong."""
    if getattr(_LIBRARY, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


_LIBRARY = ctypes.CDLL(None, use_errno=True)

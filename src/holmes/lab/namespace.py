"""The three system calls of the lab: leave a namespace, enter one, die with the parent.

Written against the C library because Python has them only from 3.12 on. All of
them act on the calling thread; call them in a process of one thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this process into fresh namespaces. Raises OSError where that is not allowed."""
    if not hasattr(_libc, "unshare"):
        raise OSError(errno.ENOSYS, "only Linux has namespaces")
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def unshare_user() -> None:
    """Become the owner of a fresh user namespace, under one's own user and group ids.

    Ids stay what they were, so files and their owners look the same inside.
    """
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def enter(path: str, kind: int) -> None:
    """Join the namespace behind ``/proc/<pid>/ns/...``. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), f"setns {path}")
    finally:
        os.close(descriptor)


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that forked this process ends, or at once if it has."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)

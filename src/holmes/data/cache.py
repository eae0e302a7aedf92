"""A folder for what is derived from text: written whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from holmes.errors import WriteError


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/holmes``, else ``~/.cache/holmes``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "holmes"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the cache for one process; the others wait. The system frees it when we die.

    Raises:
        WriteError: when the folder cannot be made or written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / "lock").open("w")
    except OSError as error:
        raise WriteError(
            f"cannot use the cache folder: {error.strerror}",
            where=str(cache),
            next_step="set data.cache to a folder you can write",
        ) from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside its place, force it to disk, then move it there.

    Raises:
        WriteError: nothing is left behind then.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WriteError(f"cannot write a file: {error.strerror}", where=str(path)) from None

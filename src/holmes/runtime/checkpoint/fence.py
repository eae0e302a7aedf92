"""Fence: which generation of ranks a run folder belongs to.

Every start of a run's ranks is a generation of its own. Whoever starts them advances the
number first and sweeps what older ones were writing; only then is a checkpoint chosen to go
on from. A process of an older generation that comes back to life reads the number before it
joins or commits, and the folder it was writing is gone, so its last rename fails.
"""

from __future__ import annotations

import json
from pathlib import Path

from holmes.errors import DataError, UnavailableError, WriteError
from holmes.runtime.checkpoint.folders import PARTIAL, flush_folder, sweep, write_durably

FENCE = "generation.json"


def generation_of(run: Path) -> int:
    """The generation that a run folder belongs to; 0 where none has begun.

    Raises:
        DataError: the file is damaged.
    """
    path = run / FENCE
    try:
        found = json.loads(path.read_bytes())["generation"]
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("the generation cannot be read", where=str(path), why=str(error)) from None
    if not isinstance(found, int) or found < 0:
        raise DataError(f"{found!r} is no generation", where=str(path))
    return found


def advance(run: Path) -> int:
    """Begin a generation: older ones can neither join nor commit from here on.

    Raises:
        DataError: the file is damaged.
        WriteError: it cannot be written, or a leftover cannot be removed.
    """
    number = generation_of(run) + 1
    path = run / FENCE
    fresh = path.with_name(FENCE + PARTIAL)
    try:
        write_durably(fresh, json.dumps({"generation": number}).encode() + b"\n")
        fresh.rename(path)
        flush_folder(run)
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(path)) from None
    sweep(run)
    return number


def overtaken(run: Path, generation: int) -> str | None:
    """Why a process of this generation may not go on; None where it may."""
    now = generation_of(run)
    if now <= generation:
        return None
    return f"generation {now} has taken over, this process belongs to generation {generation}"


def require_current(run: Path, generation: int, where: str) -> None:
    """Refuse to join for a generation that has been replaced.

    Raises:
        UnavailableError: a newer one has begun.
    """
    why = overtaken(run, generation)
    if why is not None:
        raise UnavailableError(
            "this process was replaced and cannot join",
            where=where,
            why=why,
            next_step="nothing to do: the run goes on without it",
        )

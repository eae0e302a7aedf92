"""The pool of ranks that all parallel tests share: many cases, one launch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holmes.launch.pool import Pool

RANKS = 4


@contextmanager
def shared_pool(log_dir: Path) -> Iterator[Pool]:
    """Four ranks on loopback. ``tests`` is importable in them, as it is here."""
    with Pool(RANKS, log_dir=log_dir) as pool:
        yield pool

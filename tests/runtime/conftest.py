"""The wider pool that the runtime's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holmes.launch.pool import Pool
from tests.runtime.covering import MOST_RANKS


@pytest.fixture(scope="session")
def seats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Eight ranks on loopback, used as ``ranks`` is."""
    with Pool(MOST_RANKS, log_dir=tmp_path_factory.mktemp("seats")) as pool:
        yield pool

"""Fixtures shared by all rooms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from holmes.launch.pool import Pool
from tests.pool import shared_pool

settings.register_profile("same examples every time", derandomize=True, deadline=None)
settings.load_profile("same examples every time")


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """``ranks.run("tests.room.cases:case", args, deadline_seconds=60, ranks=2)``."""
    with shared_pool(tmp_path_factory.mktemp("pool")) as pool:
        yield pool

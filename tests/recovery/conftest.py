"""Sessions that the runs of this room share: starting ranks is most of a short run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holmes.train.rehearsal import Rehearsal
from tests.recovery.cases import opened

Opened = tuple[Rehearsal, Path]


@pytest.fixture(scope="package")
def on_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Four ranks of this machine, and the folder that their jobs take text and cache from."""
    base = tmp_path_factory.mktemp("loopback")
    with opened(base, []) as rehearsal:
        yield rehearsal, base


@pytest.fixture(scope="package")
def on_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Four ranks on four shaped hosts."""
    base = tmp_path_factory.mktemp("hosts")
    with opened(base, [], rehearse=True) as rehearsal:
        yield rehearsal, base

"""The example jobs resolve, for models that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from holmes.job.resolve import resolve_job
from holmes.models.gpt.describe import config_from

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path) -> None:
    resolved = resolve_job(path)
    config = config_from(resolved.job.model)
    assert resolved.job.name == path.stem
    layout = resolved.job.parallel
    assert (layout.pipeline or 1) <= config.blocks
    replicas = layout.data or 1
    if isinstance(replicas, tuple):
        assert len(replicas) == layout.pipeline
        return
    assert resolved.job.batch.global_ % ((resolved.job.batch.micro or 1) * replicas) == 0


def test_there_are_examples() -> None:
    assert {"demo", "paper-shaped", "plan-paper"} <= {path.stem for path in EXAMPLES}

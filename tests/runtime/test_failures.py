"""A rank that dies or freezes surfaces as an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from holmes.errors import RankDiedError
from holmes.launch.pool import Pool
from tests.runtime.plans import Spec

pytestmark = [pytest.mark.parallel, pytest.mark.faults]


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
def test_a_dead_rank_is_named_by_a_peer(ranks: Pool, overlap: bool) -> None:
    said: list[Mapping[str, Any]] = []
    with pytest.raises(RankDiedError):
        ranks.run(
            "tests.runtime.cases:die_in_step",
            {"spec": asdict(Spec(pp=2, dp=2, overlap=overlap)), "victim": 3},
            deadline_seconds=40,
            ranks=4,
            on_progress=lambda rank, value: said.append(value),
        )
    for value in said:
        assert value["code"] == RankDiedError.exit_code
        assert "no answer from rank" in value["text"]
        assert "lane comm:" in value["text"]


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_dead_tensor_rank_is_named_by_its_peer(ranks: Pool, chunks: int) -> None:
    """Inside a block there is no instruction to name, but the group is; no wait is for ever."""
    said: list[Mapping[str, Any]] = []
    with pytest.raises(RankDiedError):
        ranks.run(
            "tests.runtime.cases:die_in_step",
            {"spec": asdict(Spec(tp=2, chunks=chunks)), "victim": 1},
            deadline_seconds=40,
            ranks=2,
            on_progress=lambda rank, value: said.append(value),
        )
    for value in said:
        assert value["code"] == RankDiedError.exit_code
        assert "no answer from rank 1 inside a block" in value["text"]
        assert "tensor.0" in value["text"]


def test_a_frozen_rank_ends_the_wait(ranks: Pool) -> None:
    with pytest.raises(RankDiedError) as error:
        ranks.run(
            "tests.runtime.cases:freeze",
            {"spec": asdict(Spec(pp=2))},
            deadline_seconds=15,
            ranks=2,
        )
    assert "no answer from rank 1" in error.value.text()
    assert "pipeline.0-1" in error.value.text()

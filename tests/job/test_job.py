"""Jobs: what a file may say, and what the planner is told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from holmes.job.job import Job, job_schema
from holmes.plan.layout import Wishes

LEAST: dict[str, Any] = {"site": "demo", "model": "gpt-1m", "batch": {"global": 8}}


def job(**keys: Any) -> Job:
    return Job.model_validate({**LEAST, **keys})


def test_the_least_job() -> None:
    least = job()
    assert least.model == {"preset": "gpt-1m"}
    assert least.batch.global_ == 8
    assert least.wishes() == Wishes()
    assert least.data.source == "shakespeare"


def test_placement_fills_and_parallel_wins() -> None:
    holmes = job(placement="holmes").wishes()
    assert (holmes.order, holmes.transport, holmes.partition) == ("cluster", "per-group", "exact")
    assert holmes.overlap is True
    mixed = job(placement="megatron", parallel={"overlap": True, "pipeline": 2}).wishes()
    assert (mixed.transport, mixed.partition, mixed.overlap) == ("common", "even", True)
    assert (mixed.pipeline, mixed.extra_warmup) == (2, 0)
    assert job(placement="scattered").wishes().order == "scattered"


def test_every_key_of_parallel_becomes_a_wish() -> None:
    keys: dict[str, Any] = {
        "tensor": 2,
        "pipeline": 3,
        "data": 4,
        "context": 2,
        "context_algorithm": "rsa",
        "expert": 1,
        "sharding": "gradients",
        "schedule": "gpipe",
        "virtual_stages": 2,
        "extra_warmup": 1,
        "recompute": "full",
        "order": "launch",
        "transport": "common",
        "partition": "even",
        "overlap": False,
        "rank_map": "0,2,3,1",
        "bucket_mb": 4,
        "scatter_gather": False,
        "tensor_chunks": 2,
        "shard_groups": "2,4",
        "quantize": "int8",
    }
    wishes = job(parallel=keys).wishes()
    read = {"rank_map": (0, 2, 3, 1), "bucket_mb": 4.0, "shard_groups": (2, 4)}
    assert wishes == Wishes(**{**keys, **read})
    assert None not in vars(wishes).values()


@pytest.mark.parametrize(
    "keys",
    [
        {"batch": {"global": 8, "micro": 3}},
        {"batch": {"global": 0}},
        {"batch": {"global": 8.5}},
        {"batch": {"global": True}},
        {"optimizer": {"lr": 1e-4, "min_lr": 1e-3}},
        {"optimizer": {"betas": [0.9, 1.0]}},
        {"optimizer": {"betas": [0.9]}},
        {"optimizer": {"eps": 0}},
        {"optimizer": {"clip": 0}},
        {"optimizer": {"name": "sgd"}},
        {"train": {"steps": 0}},
        {"train": {"steps": 10**12}},
        {"train": {"precision": "int8"}},
        {"train": {"deadline_seconds": float("inf")}},
        {"data": {"vocabulary": 256}},
        {"data": {"validation_fraction": 0.9}},
        {"data": {"source": ""}},
        {"data": {"source": "a\0b"}},
        {"parallel": {"tensor": 0}},
        {"parallel": {"rank_map": "0,1,x"}},
        {"parallel": {"rank_map": [0, 0]}},
        {"parallel": {"rank_map": [-1, 0]}},
        {"parallel": {"rank_map": []}},
        {"parallel": {"scatter_gather": False}},
        {"parallel": {"tensor_chunks": 2}},
        {"parallel": {"tensor": 2, "tensor_chunks": 0}},
        {
            "parallel": {"tensor": 2, "tensor_chunks": 2},
            "rehearsal": {"devices": "virtual", "forward_ms": 1, "backward_ms": 2},
        },
        {"parallel": {"context_algorithm": "ring"}},
        {"parallel": "automatic"},
        {"rehearsal": {"devices": "virtual"}},
        {"rehearsal": {"devices": "virtual", "forward_ms": 1}},
        {"rehearsal": {"forward_ms": 1, "backward_ms": 2}},
        {"rehearsal": {"cores": "some"}},
        {"rehearsal": {"cores": 0}},
        {"model": {}},
        {"model": {"layers": float("nan")}},
        {"model": {"layers": 10**16}},
        {"model": {"layers": [1]}},
        {"name": "a/b"},
        {"name": "../x"},
        {"placement": "best"},
        {"unknown": 1},
    ],
)
def test_out_of_range(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job(**keys)


def test_good_rehearsals() -> None:
    virtual = {"devices": "virtual", "forward_ms": 10, "backward_ms": 20}
    assert job(rehearsal=virtual).rehearsal.backward_ms == 20
    assert job(rehearsal={"cores": 0.4}).rehearsal.cores == 0.4


def test_schema_describes_the_file() -> None:
    schema = job_schema()
    assert set(schema["required"]) == {"site", "model", "batch"}
    assert "global" in schema["$defs"]["Batch"]["properties"]
    assert {"type": "string"} in schema["properties"]["model"]["anyOf"]

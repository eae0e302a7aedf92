"""What attention over context ranks cannot do is refused before anything is built."""

from __future__ import annotations

import pytest

from holmes.errors import ConfigError
from holmes.job.job import Job
from holmes.job.resolve import resolve_job
from holmes.models.registry import describe
from holmes.runtime.capabilities import CAPABILITIES
from holmes.train.planning import check_attention, request_of


def job_of(**data: str) -> Job:
    values = {"site": "demo", "model": "llama-1m", "batch": {"global": 8}, "data": data}
    return Job.model_validate(values)


@pytest.mark.parametrize(
    ("window", "packing", "says"),
    [(8, "windows", "sliding window"), (None, "documents", "documents apart")],
)
def test_windows_and_documents_need_one_context_rank(
    window: int | None, packing: str, says: str
) -> None:
    job = job_of(packing=packing)
    config = describe("llama").config_from({"preset": "llama-1m", "window": window})
    check_attention(job, config, 1)
    check_attention(job_of(), describe("llama").config_from("llama-1m"), 2)
    with pytest.raises(ConfigError, match=says):
        check_attention(job, config, 2)


def test_it_is_refused_when_it_is_planned() -> None:
    words = ["site=demo", "model=llama-1m", "batch.global=8", "data.packing=documents"]
    with pytest.raises(ConfigError, match="documents apart"):
        request_of(resolve_job(None, [*words, "parallel.context=2"], {}), capabilities=CAPABILITIES)
    found = request_of(resolve_job(None, words, {}), capabilities=CAPABILITIES).capabilities
    assert found is not None and "context" not in found.axes  # the planner does not choose it

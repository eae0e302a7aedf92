"""Models and texts in folders: where relative paths begin, and what short forms mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from holmes.errors import ConfigError
from holmes.job.resolve import resolve_job

JOB = """
site: demo
model: {from: models/tiny, sequence: 64}
data:
  source: [{source: a.txt}, {source: /b.jsonl, field: body, weight: 2}, {source: shakespeare}]
  tokenizer: models/tiny
batch: {global: 8}
"""


def test_paths_in_a_job_file_begin_at_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    resolved = resolve_job(path)
    job = resolved.job
    assert job.model["from"] == str(tmp_path / "models" / "tiny")
    assert job.data.tokenizer == str(tmp_path / "models" / "tiny")
    parts = [(part.source, part.field, part.weight) for part in job.data.parts()]
    assert parts == [
        (str(tmp_path / "a.txt"), "text", 1.0),
        ("/b.jsonl", "body", 2.0),
        ("shakespeare", "text", 1.0),
    ]
    (tmp_path / "again.yaml").write_text(resolved.yaml_text())
    again = resolve_job(tmp_path / "again.yaml").job
    assert (again.model, again.data) == (job.model, job.data)
    assert any(key == "data.source.1.weight" and value == 2 for key, value, _ in resolved.rows())


def test_a_model_with_a_slash_is_a_folder() -> None:
    given = {"site": "demo", "model": "some/folder", "global_batch": 8}
    job = resolve_job(None, ["model.sequence=32", "data.source=x.txt"], given).job
    assert job.model == {"from": str(Path("some/folder").absolute()), "sequence": 32}
    assert job.data.source == str(Path("x.txt").absolute())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"source": []}, "source"),
        ({"source": [{"source": "a", "weight": 0}]}, "weight"),
        ({"source": [{"path": "a"}]}, "path"),
        ({"packing": "tight"}, "packing"),
        ({"document_mb": 0}, "document_mb"),
    ],
)
def test_bad_data_sections_name_the_key(tmp_path: Path, data: object, says: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump({"site": "demo", "model": "gpt-1m", "batch": {"global": 8}, "data": data})
    )
    with pytest.raises(ConfigError, match=says) as caught:
        resolve_job(path)
    assert caught.value.exit_code == 78

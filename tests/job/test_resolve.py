"""Resolving: file, options and overrides become one job, each value with its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holmes.errors import ConfigError
from holmes.job.overrides import parse_override
from holmes.job.resolve import ResolvedJob, resolve_job

JOB = """\
site: demo
model: {preset: gpt-1m, layers: 6}
batch: {global: 8, micro: 2}
train:
  steps: 30
data: {source: texts}
"""
OPTIONS: dict[str, Any] = {"site": "demo", "model": "gpt-1m", "global_batch": 8, "name": "run"}


@pytest.fixture
def job_path(tmp_path: Path) -> Path:
    path = tmp_path / "my job.yaml"
    path.write_text(JOB)
    return path


def refusal(words: list[str], path: Path | None = None, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_job(path, words, options or (None if path else OPTIONS))
    assert caught.value.exit_code == 78
    assert caught.value.where
    return caught.value


def test_without_a_file() -> None:
    resolved = resolve_job(None, ["train.steps=5"], OPTIONS)
    assert resolved.job.train.steps == 5
    assert resolved.job.batch.global_ == 8
    assert resolved.job.name == "run"
    assert resolved.site.name == "demo"
    assert resolved.origins["name"] == "--name"
    assert resolved.origins["site"] == "--site"
    assert resolved.origins["batch.global"] == "--global-batch"
    assert resolved.origins["train.steps"] == "override"
    assert resolved.origins["train.seed"] == "default"


def test_origins_of_a_file(job_path: Path) -> None:
    resolved = resolve_job(job_path, ["optimizer.lr=3e-4"], {"placement": "holmes", "steps": 7})
    origins = resolved.origins
    assert origins["batch.micro"] == f"{job_path}:3"
    assert origins["train.steps"] == "--steps"
    assert origins["train.seed"] == "default"
    assert origins["optimizer.lr"] == "override"
    assert origins["optimizer.betas"] == "default"
    assert origins["placement"] == "--placement"
    assert origins["name"] == "default"
    assert resolved.job.name == "my-job"
    assert origins["site.clusters.roce.nics.roce.gbit_s"].startswith("catalogue site demo:")
    rows = {key: (value, origin) for key, value, origin in resolved.rows()}
    assert rows["optimizer.lr"] == (3e-4, "override")
    assert set(rows) == set(origins)


def test_overrides_win_over_options() -> None:
    resolved = resolve_job(None, ["batch.global=16"], OPTIONS)
    assert resolved.job.batch.global_ == 16
    assert resolved.origins["batch.global"] == "override"


@pytest.mark.parametrize("prefix", ["", "site."])
def test_site_overrides_by_name(prefix: str) -> None:
    words = [
        f"{prefix}clusters.roce.nics.roce.gbit_s=400",
        f"{prefix}clusters.0.nodes=3",
        f"{prefix}clusters.ib.device.speed=0.5",
        f"{prefix}links.ib-roce.gbit_s=100",
        f"{prefix}rehearsal.rates.ib.infiniband=2",
    ]
    resolved = resolve_job(None, words, OPTIONS)
    ib, roce = resolved.site.clusters
    assert roce.nics[0].gbit_s == 400
    assert ib.nodes == 3
    assert ib.device is not None
    assert ib.device.speed == 0.5
    assert resolved.site.links[0].gbit_s == 100
    assert resolved.site.rehearsal is not None
    assert resolved.site.rehearsal.rates["ib"]["infiniband"] == 2  # type: ignore[index]
    assert resolved.origins["site.clusters.roce.nics.roce.gbit_s"] == "override"


def test_names_with_dots(tmp_path: Path) -> None:
    site = tmp_path / "s.yaml"
    nics = "nics: [{kind: ethernet, gbit_s: 1}]"
    site.write_text(
        f"name: s\nclusters:\n  - {{name: a.b, nodes: 1, device: {{kind: cpu-core}}, {nics}}}\n"
    )
    resolved = resolve_job(None, ["clusters.a.b.nodes=4"], {**OPTIONS, "site": str(site)})
    assert resolved.site.clusters[0].nodes == 4


def test_rehearsal_keys_go_where_they_belong() -> None:
    words = ["rehearsal.scale=0.01", "rehearsal.cores=0.5", "site.name=other"]
    resolved = resolve_job(None, words, OPTIONS)
    assert resolved.site.rehearsal is not None
    assert resolved.site.rehearsal.scale == 0.01
    assert resolved.job.rehearsal.cores == 0.5
    assert (resolved.site.name, resolved.job.name) == ("other", "run")


def test_sections_appear_when_an_override_needs_them() -> None:
    resolved = resolve_job(
        None, ["parallel=auto", "parallel.pipeline=2", "model.layers=3"], OPTIONS
    )
    assert resolved.job.wishes().pipeline == 2
    assert resolved.job.model == {"preset": "gpt-1m", "layers": 3}


def test_paths_in_a_file_start_at_its_folder(job_path: Path) -> None:
    (job_path.parent / "sites").mkdir()
    site = job_path.parent / "sites" / "mine.yaml"
    site.write_text(
        "name: mine\nclusters:\n  - {name: a, nodes: 1, device: {kind: cpu-core}, "
        "nics: [{kind: ethernet, gbit_s: 1}]}\n"
    )
    job_path.write_text(JOB.replace("site: demo", "site: sites/mine.yaml"))
    resolved = resolve_job(job_path)
    assert resolved.site.name == "mine"
    assert resolved.job.data.source == str(job_path.parent / "texts")
    assert resolved.origins["site.clusters.a.nodes"] == f"{site}:3"
    here = resolve_job(job_path, ["data.source=texts"])
    assert here.job.data.source == str(Path("texts").absolute())


def same(one: ResolvedJob, other: ResolvedJob) -> bool:
    blank = {"site": ""}
    return one.site == other.site and one.job.model_copy(update=blank) == other.job.model_copy(
        update=blank
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["placement=megatron", "parallel.rank_map=0,2,3,1", "optimizer.clip=null"],
        ['name="1e5"', "clusters.ib.nodes=3", "rehearsal.scale=1e-3", "batch.micro=null"],
    ],
)
def test_the_document_is_self_contained(job_path: Path, tmp_path: Path, words: list[str]) -> None:
    resolved = resolve_job(job_path, words)
    copy = tmp_path / "elsewhere" / "job.yaml"
    copy.parent.mkdir()
    copy.write_text(resolved.yaml_text())
    again = resolve_job(copy)
    assert same(resolved, again)
    assert again.origins["site.clusters.ib.nodes"].startswith(f"{copy}:")
    changed = resolve_job(copy, ["clusters.roce.nodes=5"])
    assert changed.site.clusters[1].nodes == 5


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trian.steps=5", "did you mean `train`?"),
        ("clsuters.ib.nodes=1", "did you mean `clusters`?"),
        ("train.stepz=5", "did you mean `steps`?"),
        ("train.steps=abc", "a whole number, not 'abc'"),
        ("train.steps=1.5", "a whole number"),
        ("train.steps.more=1", "a whole number, not {'more': 1}"),
        ("name.more=1", "`name` is a plain value"),
        ("train=5", "keys and values"),
        ("train.tensorboard=perhaps", "true or false"),
        ("clusters.rocee.nodes=1", "did you mean `roce`?"),
        ("clusters.9.nodes=1", "known items: ib, roce"),
        ("clusters.roce.nics.rocce.gbit_s=1", "`clusters.roce.nics` has no item 'rocce'"),
        ("clusters.roce.nics.roce.gbits=1", "did you mean `gbit_s`?"),
        ("clusters.roce.nodes=-1", "`clusters.roce.nodes`"),
        ("clusters.roce.device.kind=cpu-cor", "did you mean `cpu-core`?"),
        ("rehearsal.rates.ibb.infiniband=1", "'ibb'"),
        ("site=demoo", "did you mean `demo`?"),
        ("site=[1]", "site"),
        ("batch.micro=3", "does not divide"),
        ("placement=holms", "did you mean `holmes`?"),
        ("train.steps=[1", "not plain YAML"),
        ("train.steps=\udcff", "not plain YAML"),
        ("steps", "is not an override"),
        ("=5", "is not an override"),
        ("a..b=5", "is not an override"),
        ("x" * 5000 + "=1", "there is no key"),
    ],
)
def test_bad_overrides_name_themselves(word: str, said: str) -> None:
    error = refusal([word])
    assert said in error.text()
    assert "override" in (error.where or "")
    assert len(error.where or "") < 200


def test_bad_options_name_themselves() -> None:
    assert refusal([], **{**OPTIONS, "global_batch": -1}).where == "option --global-batch"
    assert refusal([], **OPTIONS, rank_map="0,x").where == "option --rank-map"
    assert refusal([], **OPTIONS, placement="best").where == "option --placement"


@pytest.mark.parametrize("key", ["site", "model", "global_batch"])
def test_what_is_needed(key: str) -> None:
    error = refusal([], **{name: value for name, value in OPTIONS.items() if name != key})
    assert key.split("_")[0] in error.what or "batch" in error.what
    assert f"--{key.replace('_', '-')}" in (error.next_step or "")


def test_missing_and_odd_files(tmp_path: Path) -> None:
    missing = refusal([], tmp_path / "none.yaml")
    assert "cannot read the job file" in missing.what
    assert missing.next_step
    for text in ("", "- 1\n", "words\n"):
        path = tmp_path / "odd.yaml"
        path.write_text(text)
        assert "keys and values" in refusal([], path).what


def test_errors_in_an_inline_site_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "j.yaml"
    path.write_text(
        "site:\n  name: s\n  clusters:\n    - name: a\n      nodes: 0\n"
        "      device: {kind: cpu-core}\n      nics: [{kind: ethernet, gbit_s: 1}]\n"
        "model: gpt-1m\nbatch: {global: 4}\n"
    )
    assert refusal([], path).where == f"{path}:5: clusters.a.nodes"


def test_values_of_overrides_are_yaml() -> None:
    assert parse_override("optimizer.betas=[0.8, 0.9]").value == [0.8, 0.9]
    assert parse_override("batch.micro=").value is None
    assert parse_override("name='7'").value == "7"
    assert parse_override("data.source=a=b").value == "a=b"

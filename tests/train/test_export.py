"""Export: what a folder held comes back bit for bit, from any split; nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.ranks import write_good
from tests.models.hf.folders import CONFIGS, write_folder
from transformers import AutoModelForCausalLM

from holmes import api
from holmes.errors import ConfigError, DataError, WriteError
from holmes.job.resolve import resolve_job
from holmes.models.registry import describe, family_of, weights_module
from holmes.runtime.checkpoint.folders import checkpoint_folder
from holmes.train.export import export
from holmes.train.parts import folder_weights


def run_of(model: dict[str, Any], run: Path, world: int = 3) -> Path:
    """A run folder with a checkpoint of the folder's parameters; the checkpoint."""
    run.mkdir()
    words = [f"model={json.dumps(model)}", "site=paper", "batch={global: 8}"]
    resolved = resolve_job(None, words)
    (run / "job.yaml").write_text(resolved.yaml_text())
    job = resolved.job
    config = describe(family_of(job.model)).config_from(job.model)
    weights = folder_weights(job, config)
    assert weights is not None
    theirs = AutoModelForCausalLM.from_pretrained(model["from"]).state_dict()
    names = weights_module(family_of(job.model)).layout(config)
    tensors = {}
    for ours, source in names.sources.items():
        shape = tuple(theirs[names.stored_name(source)].shape)
        mine = tuple(reversed(shape)) if source.transposed else shape
        mine = (mine[0] // 3, *mine[1:]) if source.stacked else mine
        tensors[f"parameters/{ours}"] = weights.read(ours, mine)
    write_good(run, 5, tensors, world=world)
    return checkpoint_folder(run, 5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    theirs = write_folder(name, tmp_path / "in").state_dict()
    run_of({"from": str(tmp_path / "in")}, tmp_path / "run")
    done = api.export(tmp_path / "run", tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert done["step"] == 5
    assert back.state_dict().keys() == theirs.keys()
    for key, value in back.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "in", attn_implementation="eager")
    ids = torch.arange(22).view(2, 11)
    assert torch.equal(back(ids).logits, first(ids).logits)


def test_several_files_and_an_index(tmp_path: Path) -> None:
    theirs = write_folder("gpt2", tmp_path / "in").state_dict()
    checkpoint = run_of({"from": str(tmp_path / "in")}, tmp_path / "run", world=1)
    export(tmp_path / "run", checkpoint, tmp_path / "out", file_bytes=20_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


def test_nothing_is_left_of_what_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder("llama", tmp_path / "in")
    checkpoint = run_of({"from": str(tmp_path / "in")}, tmp_path / "run")
    before = sorted(p.name for p in tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("holmes.train.export.save_file", full)
        with pytest.raises(WriteError, match="No space left"):
            api.export(tmp_path / "run", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
        with pytest.raises(WriteError, match="not enough space"):
            api.export(tmp_path / "run", tmp_path / "out")
    with pytest.raises(WriteError, match="No such file"):
        api.export(tmp_path / "run", tmp_path / "nowhere" / "out")
    (tmp_path / "run" / "job.yaml").write_text(
        (tmp_path / "run" / "job.yaml").read_text().replace("from:", "layers: 4\n  from:")
    )
    with pytest.raises(DataError, match=r"no parameter blocks"):
        export(tmp_path / "run", checkpoint, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_model_without_an_architecture_there_is_refused(tmp_path: Path) -> None:
    write_folder("gpt2", tmp_path / "in")
    run_of({"from": str(tmp_path / "in")}, tmp_path / "run")
    job = tmp_path / "run" / "job.yaml"
    job.write_text(job.read_text().replace("from:", "positions: rotary\n  from:"))
    with pytest.raises(ConfigError, match="no Hugging Face architecture"):
        api.export(tmp_path / "run", tmp_path / "out")

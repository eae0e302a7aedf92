"""Folders that cannot be read: one message each, with file, tensor or key, and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holmes.errors import ConfigError, DataError, HolmesError
from holmes.job.resolve import resolve_job
from holmes.models.registry import describe, family_of
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress
from tests.models.hf.folders import YARN, write_folder
from tests.models.hf.test_logits import read_model

WEIGHTS = "model.safetensors"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def drop_keys(folder: Path, *keys: str) -> None:
    path = folder / "config.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in keys}
    path.write_text(json.dumps(values))


def halve(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def index(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)


LAPTOP = Path(__file__).parents[3] / "examples" / "sites" / "laptop.yaml"
NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
BAD: dict[str, tuple[Callable[[Path], Any], type[HolmesError], str]] = {
    "cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        DataError,
        "not a whole safetensors file",
    ),
    "cut off in the header": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:50]),
        DataError,
        "not a whole safetensors file",
    ),
    "something else": (
        lambda f: (f / WEIGHTS).write_text("no tensors"),
        DataError,
        "not a whole safetensors file",
    ),
    "empty": (
        lambda f: (f / WEIGHTS).write_bytes(b""),
        DataError,
        "not a whole safetensors file",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), DataError, "holds no weights"),
    "a pickle": (pickled, ConfigError, "may hold code and is never loaded"),
    "a tensor missing": (
        lambda f: edit_tensors(f, lambda t: t.pop(UP)),
        DataError,
        UP,
    ),
    "a tensor too many": (
        lambda f: edit_tensors(f, lambda t: t.update(extra=torch.zeros(3))),
        DataError,
        "extra",
    ),
    "another shape": (
        lambda f: edit_tensors(f, lambda t: t.update({UP: t[UP][:-1].clone()})),
        DataError,
        "[91, 48], the model's is [92, 48]",
    ),
    "mixed types": (
        lambda f: edit_tensors(f, halve),
        DataError,
        "1 BF16",
    ),
    "whole numbers": (
        lambda f: edit_tensors(f, lambda t: t.update({NORM: torch.ones(48, dtype=torch.int8)})),
        DataError,
        "type I8",
    ),
    "sizes of another model": (
        lambda f: edit_config(f, num_hidden_layers=4),
        DataError,
        "9 tensors are missing",
    ),
    "an index that names a file that is not there": (
        lambda f: index(f, json.dumps({"weight_map": {NORM: "model-00001.safetensors"}})),
        DataError,
        "model-00001.safetensors",
    ),
    "an index that leads out": (
        lambda f: index(f, json.dumps({"weight_map": {NORM: "../secret.safetensors"}})),
        DataError,
        "not in the folder",
    ),
    "an index that is torn": (lambda f: index(f, '{"weight_map": {'), DataError, "index"),
    "a config that is torn": (
        lambda f: (f / "config.json").write_text('{"model_type": '),
        DataError,
        "not JSON",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), DataError, "config.json"),
    "no architecture": (lambda f: drop_keys(f, "model_type"), DataError, "model_type"),
    "an unknown architecture": (
        lambda f: edit_config(f, model_type="mamba"),
        ConfigError,
        "supported: gpt2, llama, mistral, qwen2, qwen3",
    ),
    "a missing size": (lambda f: drop_keys(f, "hidden_size"), DataError, "hidden_size"),
    "a size that is none": (
        lambda f: edit_config(f, num_hidden_layers="three"),
        DataError,
        "num_hidden_layers",
    ),
    "code of its own": (
        lambda f: edit_config(f, auto_map={"AutoModel": "x.Model"}),
        ConfigError,
        "never run",
    ),
    "quantised": (
        lambda f: edit_config(f, quantization_config={"bits": 4}),
        ConfigError,
        "quantised",
    ),
    "another activation": (lambda f: edit_config(f, hidden_act="gelu"), ConfigError, "silu"),
    "biases of its own": (
        lambda f: edit_config(f, attention_bias=True),
        ConfigError,
        "attention_bias",
    ),
    "another rotary scaling": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "longrope", "factor": 4.0}),
        ConfigError,
        "supported: default, linear, llama3, yarn",
    ),
    "an impossible rotary scaling": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "llama3", "factor": 4.0}),
        ConfigError,
        "rotary_original",
    ),
    "yarn of another architecture": (
        lambda f: edit_config(f, rope_parameters={**YARN, "mscale": 1.0}),
        ConfigError,
        "attention_factor",
    ),
    "a window in some layers": (
        lambda f: edit_config(
            f,
            model_type="qwen2",
            use_sliding_window=True,
            sliding_window=4,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
        ConfigError,
        "in the last layers",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_folder_is_one_message(kind: str, tmp_path: Path) -> None:
    write_folder("llama", tmp_path)
    make, error, says = BAD[kind]
    make(tmp_path)
    with pytest.raises(error) as caught:
        read_model(tmp_path)
    assert says in str(caught.value)
    assert caught.value.where
    assert caught.value.exit_code == (65 if error is DataError else 78)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation_function": "relu"}, "gelu_new"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_another_gpt2_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    write_folder("gpt2", tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ConfigError, match=says):
        read_model(tmp_path)


def test_keys_of_a_job_beside_the_folder(tmp_path: Path) -> None:
    write_folder("llama", tmp_path)
    spec = {"from": str(tmp_path)}
    for more, says in (
        ({"preset": "llama-1m"}, "no effect"),
        ({"layers": 0}, "between 1"),
        ({"colour": 1}, "known keys: preset, from"),
    ):
        with pytest.raises(ConfigError, match=says):
            describe("llama").config_from({**spec, **more})
    with pytest.raises(ConfigError, match="family llama, not gpt"):
        family_of({**spec, "family": "gpt"})
    with pytest.raises(DataError, match="no such model folder"):
        family_of({"from": str(tmp_path / "nowhere")})


def test_a_bad_folder_or_text_is_told_before_a_rank_starts(tmp_path: Path) -> None:
    write_folder("llama", tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("a few words that are repeated\n" * 200)
    words = [f"data.source={text}", "data.vocabulary=300", f"data.cache={tmp_path}"]
    given = {"site": str(LAPTOP), "model": str(tmp_path / "model"), "global_batch": "4"}
    job = resolve_job(None, words, given)
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    with pytest.raises(ConfigError, match="278 token ids, the model 101"):
        Rehearsal(job, tmp_path / "logs", quiet, rehearse=False)
    BAD["cut off"][0](tmp_path / "model")
    with pytest.raises(DataError, match="not a whole safetensors file"):
        Rehearsal(job, tmp_path / "logs", quiet, rehearse=False)
    assert not (tmp_path / "logs").exists()


def test_planning_from_a_folder_needs_its_config_alone_and_no_torch(tmp_path: Path) -> None:
    write_folder("qwen3", tmp_path)
    (tmp_path / WEIGHTS).unlink()
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['safetensors'] = None\n"
        "from holmes.cli.main import _run\n"
        "sys.exit(_run(sys.argv[1:], debug=False))"
    )
    words = ["plan", "--site", "paper", "--model", str(tmp_path), "--global-batch", "64"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--seq", "16", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    load = json.loads(done.stdout)["workload"]
    assert (load["family"], load["sequence"], load["head_size"]) == ("llama", 16, 20)

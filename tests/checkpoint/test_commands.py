"""`holmes checkpoint`: list, verify, convert, repair, as a user meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holmes.cli.main import _run
from holmes.runtime.checkpoint.check import pointer_damage
from holmes.runtime.checkpoint.folders import checkpoint_folder, committed, pointer_to
from holmes.runtime.checkpoint.read import read_checkpoint
from tests.checkpoint.ranks import write_good

Capture = pytest.CaptureFixture[str]


def call(capsys: Capture, *words: str | Path) -> tuple[int, Any, str]:
    """Exit code, the JSON object on stdout, and stderr; without --json, the text on stdout."""
    code = _run(["checkpoint", *map(str, words)], debug=False)
    out, err = capsys.readouterr()
    if "--json" not in words and out:
        return code, None, out
    return code, json.loads(out) if out else None, err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (4, 8):
        write_good(tmp_path / "run", step)
    return tmp_path / "run"


def spoil(folder: Path, place: int = -1) -> None:
    """Flip a bit of a payload byte, from the file's end."""
    path = folder / "rank-1.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_verify_says_what_is_wrong_where(run: Path, capsys: Capture) -> None:
    code, found, _ = call(capsys, "verify", run, "--json")
    assert (code, found["ok"], found["bad"]) == (0, True, [])
    assert found["checked"] == ["step-4", "step-8"]
    spoil(checkpoint_folder(run, 4))
    code, found, _ = call(capsys, "verify", run, "--json")
    assert (code, found["ok"]) == (65, False)
    (bad,) = found["bad"]
    assert bad["file"] == "checkpoints/step-4/rank-1.safetensors"
    assert bad["tensor"] == "mask" and "checksum" in bad["reason"]
    folder = checkpoint_folder(run, 4)
    code, found, _ = call(capsys, "verify", folder, "--json")
    assert (code, found["bad"][0]["file"]) == (65, "rank-1.safetensors")
    code, _, text = call(capsys, "verify", checkpoint_folder(run, 8))
    assert code == 0 and "good" in text


def test_a_missing_pointer_is_damage_unless_the_first_save_was_cut_short(
    run: Path, capsys: Capture
) -> None:
    (run / "checkpoints" / "latest").unlink()
    code, found, _ = call(capsys, "verify", run, "--json")
    assert (code, found["bad"][0]["file"]) == (65, "checkpoints/latest")
    shutil.rmtree(checkpoint_folder(run, 4))
    assert call(capsys, "verify", run, "--json")[0] == 0


def test_list_shows_steps_and_suggests_an_interval(run: Path, capsys: Capture) -> None:
    spoil(checkpoint_folder(run, 4))
    (run / "checkpoints" / "step-9.partial").mkdir()
    steps = [
        {"step": n, "loss": 1.0, "step_seconds": 0.5, "tokens_per_second": 1.0} for n in (0, 1)
    ]
    lines = [json.dumps({**s, "grad_norm": 1.0, "learning_rate": 0.1, "bytes": {}}) for s in steps]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    code, found, _ = call(capsys, "list", run, "--mtbf-hours", "1", "--json")
    assert code == 0
    states = {row["name"]: row["state"] for row in found["checkpoints"]}
    assert states == {"step-4": "damaged", "step-8": "good", "step-9.partial": "uncommitted"}
    assert found["latest"] == "step-8"
    assert found["checkpoints"][1]["layout"]["ranks"] == 2
    suggestion = found["suggestion"]
    assert suggestion["mtbf_seconds"] == 3600
    assert suggestion["steps"] == max(1, round(suggestion["seconds"] / 0.5))
    _, _, text = call(capsys, "list", run)
    assert "damaged" in text and "step-8 (latest)" in text and "suggested" in text


def test_convert_writes_whole_parameters(run: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "model.safetensors"
    code, found, _ = call(capsys, "convert", run, "-o", output, "--json")
    assert (code, found["tensors"], found["step"]) == (0, 2, 8)
    stored = read_checkpoint(checkpoint_folder(run, 8)).tensors
    written = load_file(output)
    assert set(written) == {"early", "late"}
    assert all(torch.equal(written[name], stored[f"parameters/{name}"]) for name in written)
    assert call(capsys, "convert", run, "-o", output)[0] == 74
    everything = tmp_path / "all.safetensors"
    code, found, _ = call(capsys, "convert", run, "-o", everything, "--optimizer", "--json")
    assert torch.equal(load_file(everything)["exp_avg/early"], stored["exp_avg/early"])
    payload = sum(t.numel() // 2 * t.element_size() for t in stored.values())
    spoil(checkpoint_folder(run, 8), -payload + 8)
    code, _, err = call(capsys, "convert", checkpoint_folder(run, 8), "-o", tmp_path / "x")
    assert code == 65 and "tensor parameters/late" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "all.safetensors",
        "model.safetensors",
        "run",
    ]


def test_repair_points_and_sweeps_and_keeps_what_is_good(run: Path, capsys: Capture) -> None:
    root = run / "checkpoints"
    spoil(checkpoint_folder(run, 8))
    (root / "step-9.partial").mkdir()
    (root / "step-7").mkdir()
    (root / "latest").write_text("step-9\n")
    before = sorted(p.name for p in root.iterdir())
    _, would, _ = call(capsys, "repair", run, "--dry-run", "--json")
    assert sorted(p.name for p in root.iterdir()) == before
    code, did, _ = call(capsys, "repair", run, "--json")
    assert code == 0 and did["actions"] == would["actions"]
    acts = {(Path(action["path"]).name, action["act"]) for action in did["actions"]}
    assert acts == {("step-9.partial", "remove"), ("step-7", "remove"), ("latest", "point")}
    assert did["latest"] == "step-4"
    assert (root / "latest").read_bytes() == pointer_to(checkpoint_folder(run, 4))
    assert [p.name for p in committed(run)] == ["step-4", "step-8"]
    assert call(capsys, "repair", run, "--json")[1]["actions"] == []


def test_repair_restores_what_a_damaged_one_replaced(run: Path, capsys: Capture) -> None:
    root = run / "checkpoints"
    checkpoint_folder(run, 8).rename(root / "step-8.replaced")
    shutil.move(write_good(run.parent / "other", 8), root)
    spoil(checkpoint_folder(run, 8))
    (checkpoint_folder(run, 4) / "COMMITTED").unlink()
    code, did, _ = call(capsys, "repair", run, "--json")
    assert code == 0 and did["latest"] == "step-8"
    names = {p.name for p in root.iterdir()}
    assert names == {"step-8", "step-8.damaged", "step-4.damaged", "latest"}
    assert pointer_damage(run) is None


@pytest.mark.parametrize("command", ["list", "verify", "repair"])
def test_a_place_without_checkpoints_is_one_message(
    tmp_path: Path, capsys: Capture, command: str
) -> None:
    code, _, err = call(capsys, command, tmp_path)
    assert code == 65
    assert "no checkpoints" in err and "next:" in err


def test_looking_needs_no_torch(run: Path) -> None:
    probe = """
import sys
from holmes.cli.main import _run
from holmes.events.metrics import StepMetrics, append_metrics
for command in ("verify", "list", "repair"):
    assert _run(["checkpoint", command, sys.argv[1], "--json"], debug=False) == 0
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", probe, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

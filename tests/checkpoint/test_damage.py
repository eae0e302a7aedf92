"""Damage of every kind is refused, and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from holmes.errors import DataError
from holmes.runtime.checkpoint.check import (
    damages,
    latest_good,
    marker_of,
    read_manifest,
    run_damages,
    verify_checkpoint,
)
from holmes.runtime.checkpoint.folders import checkpoint_folder
from holmes.runtime.checkpoint.read import read_checkpoint
from tests.checkpoint.flips import flip_everywhere
from tests.checkpoint.ranks import write_good


def test_every_flipped_bit_is_seen_and_named(tmp_path: Path) -> None:
    """A bit of every byte of every file: payload, header, manifest, marker, pointer."""
    write_good(tmp_path, 1)
    seen = flip_everywhere(tmp_path, every=1)
    assert seen.tried > 3000
    assert seen.caught == seen.tried
    assert seen.file_named == seen.tried
    assert seen.tensor_named == seen.in_tensors > 500


@pytest.mark.parametrize("kept", [0, 7, 8, 60, -1])
def test_a_cut_file_is_seen(tmp_path: Path, kept: int) -> None:
    folder = write_good(tmp_path, 1)
    path = folder / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="damaged: tensor") as caught:
        read_checkpoint(folder)
    assert "bytes" in str(caught.value.why)


def test_a_cut_file_names_the_tensor_it_was_cut_in(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    path = folder / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (damage,) = damages(folder)
    assert damage.tensor == read_manifest(folder).by_file[path.name][-1][0]


@pytest.mark.parametrize("name", ["rank-1.safetensors", "manifest.json", "COMMITTED"])
def test_a_missing_file_is_seen(tmp_path: Path, name: str) -> None:
    folder = write_good(tmp_path, 1)
    (folder / name).unlink()
    with pytest.raises(DataError) as caught:
        read_checkpoint(folder)
    assert name in str(caught.value.where)
    assert caught.value.exit_code == 65


def test_a_shard_of_another_checkpoint_is_seen(tmp_path: Path) -> None:
    """Equal names, types and sizes: only the id in the header tells them apart."""
    folders = [write_good(tmp_path / run, 1) for run in ("one", "two")]
    shutil.copy(folders[1] / "rank-1.safetensors", folders[0])
    (damage,) = damages(folders[0])
    assert damage.file == folders[0] / "rank-1.safetensors"
    assert "another checkpoint" in damage.reason


@pytest.mark.parametrize("with_marker", [False, True])
def test_a_manifest_of_another_run_is_seen(tmp_path: Path, with_marker: bool) -> None:
    folders = [write_good(tmp_path / run, 1) for run in ("one", "two")]
    for name in ("manifest.json", "COMMITTED")[: 1 + with_marker]:
        shutil.copy(folders[1] / name, folders[0])
    with pytest.raises(DataError) as caught:
        read_checkpoint(folders[0])
    named = "rank-0.safetensors" if with_marker else "manifest.json"
    assert named in str(caught.value.where)


def test_a_folder_under_the_name_of_another_step_is_seen(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    renamed = folder.rename(checkpoint_folder(tmp_path, 2))
    with pytest.raises(DataError) as caught:
        verify_checkpoint(renamed)
    assert "step 1" in str(caught.value.why)


def forge(folder: Path, **change: Any) -> None:
    """A consistent marker over a changed manifest."""
    data = json.dumps({**json.loads((folder / "manifest.json").read_text()), **change}).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "COMMITTED").write_bytes(marker_of(data))


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"tensors": 3},
        {"tensors": {"x": {}}},
        {"tensors": {"x": {"shape": [1], "dtype": "float3", "pieces": []}}},
        {"tensors": {"x": {"shape": [1], "dtype": "float32", "pieces": []}}},
        {"files": {"../../x": 3}},
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = write_good(tmp_path, 1)
    forge(folder, **change)
    with pytest.raises(DataError) as caught:
        verify_checkpoint(folder)
    assert str(folder) in str(caught.value.where)


@pytest.mark.parametrize("change", [{"dtype": "int32"}, {"shape": [5, 7, 1, 2]}])
def test_a_wrong_type_or_shape_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_good(tmp_path, 1)
    tensors = json.loads((folder / "manifest.json").read_text())["tensors"]
    tensors["parameters/early"].update(change)
    forge(folder, tensors=tensors)
    with pytest.raises(DataError, match="parameters/early"):
        verify_checkpoint(folder)


def test_falls_back_to_the_newest_good_one_and_says_so(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        write_good(tmp_path, step)
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, 10)
    (checkpoint_folder(tmp_path, 10) / "rank-0.safetensors").unlink()
    said: list[str] = []
    assert latest_good(tmp_path, said.append) == checkpoint_folder(tmp_path, 9)
    assert len(said) == 1
    assert "step-10 is damaged" in said[0] and "tensor" in said[0]
    for step in (2, 9):
        (checkpoint_folder(tmp_path, step) / "manifest.json").write_text("{}")
    assert len({damage.file.parent for damage in run_damages(tmp_path)}) == 3
    with pytest.raises(DataError, match="all 3 checkpoints"):
        latest_good(tmp_path, said.append)
    assert latest_good(tmp_path / "elsewhere", said.append) is None

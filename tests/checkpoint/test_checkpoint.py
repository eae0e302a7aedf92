"""Checkpoints: other splits on the way back, damage of every kind, death at any moment."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holmes.errors import DataError, WriteError
from holmes.runtime.checkpoint import (
    Shard,
    checkpoint_folder,
    committed,
    latest_committed,
    latest_good,
    prune,
    read_checkpoint,
    sweep,
    verify_checkpoint,
    write_checkpoint,
)
from holmes.runtime.checkpoint.random_state import random_state, restore_random_state
from tests.checkpoint.ranks import Tensors, interval, model_tensors, write_all, write_shards


def equal(left: Tensors, right: Tensors) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )


def write_good(run: Path, step: int, tensors: Tensors | None = None, world: int = 2) -> Path:
    folder = checkpoint_folder(run, step)
    raised = write_all(folder, tensors or model_tensors(), world, {"step": step})
    assert raised == [None] * world
    return folder


def test_from_two_ranks_to_three_to_one(tmp_path: Path) -> None:
    tensors = model_tensors()
    first = write_good(tmp_path, 1, tensors, world=2)
    gathered: Tensors = {}
    for rank in range(3):
        wanted = {n: interval(t.numel(), rank, 3) for n, t in tensors.items()}
        part = read_checkpoint(first, wanted).tensors
        for name, (start, stop) in wanted.items():
            assert torch.equal(part[name], tensors[name].reshape(-1)[start:stop])
            gathered[name] = torch.cat([gathered.get(name, part[name][:0]), part[name]])
    again = {name: flat.view(tensors[name].shape) for name, flat in gathered.items()}
    second = write_good(tmp_path, 2, again, world=3)
    read = read_checkpoint(second)
    assert equal(read.tensors, tensors)
    assert read.meta == {"step": 2}
    third = write_good(tmp_path, 3, read.tensors, world=1)
    assert equal(read_checkpoint(third).tensors, tensors)
    assert [p.name for p in committed(tmp_path)] == ["step-1", "step-2", "step-3"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(0, 35), max_size=4),
    ask=st.tuples(st.integers(0, 35), st.integers(0, 35)),
)
def test_any_cut_reads_back_as_any_interval(
    tmp_path: Path, cuts: list[int], ask: tuple[int, int]
) -> None:
    tensor = torch.arange(35.0)
    edges = [0, *sorted(cuts), 35]
    folder = checkpoint_folder(tmp_path, 1)
    start, stop = min(ask), max(ask)
    ranks = [{"x": Shard(tensor[low:high], (5, 7), low, high)} for low, high in pairwise(edges)]
    assert write_shards(folder, ranks) == [None] * len(ranks)
    assert torch.equal(
        read_checkpoint(folder, {"x": (start, stop)}).tensors["x"], tensor[start:stop]
    )
    assert torch.equal(read_checkpoint(folder).tensors["x"], tensor.view(5, 7))


def test_copies_on_several_ranks_may_overlap(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path, 1)
    tensor = torch.arange(6.0)
    ranks = [
        {"x": Shard(tensor, (2, 3), 0, 6)},
        {"x": Shard(tensor[2:5].clone(), (2, 3), 2, 5)},
        {},
    ]
    assert write_shards(folder, ranks) == [None] * 3
    assert torch.equal(read_checkpoint(folder).tensors["x"], tensor.view(2, 3))
    (folder / "rank-1.safetensors").unlink()
    with pytest.raises(DataError, match="tensor x"):
        read_checkpoint(folder)


def test_shards_may_be_views_of_one_buffer_and_one_tensor_may_have_two_names(
    tmp_path: Path,
) -> None:
    folder = checkpoint_folder(tmp_path, 1)
    flat = torch.arange(10.0)
    shards = {
        "a": Shard(flat[:4], (4,), 0, 4),
        "b": Shard(flat[4:], (6,), 0, 6),
        "twin": Shard(flat[:4], (4,), 0, 4),
        "across": Shard(flat[2:6], (4,), 0, 4),
        "transposed": Shard(flat[:6].view(2, 3).T, (3, 2), 0, 6),
    }
    assert write_shards(folder, [shards]) == [None]
    read = read_checkpoint(folder).tensors
    for name, shard in shards.items():
        assert torch.equal(read[name].reshape(-1), shard.tensor.reshape(-1)), name


def test_a_part_that_nobody_wrote_is_refused(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path, 1)
    shard = {"x": Shard(torch.zeros(4), (6,), 0, 4)}
    with pytest.raises(DataError, match="x"):
        write_checkpoint(folder, 0, 1, shard, {}, lambda: None)
    assert latest_committed(tmp_path) is None
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_interval_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        Shard(torch.zeros(4), (3,), 0, 4)
    with pytest.raises(ValueError, match="4 elements"):
        Shard(torch.zeros(4), (6,), 0, 3)


def damaged_everywhere(path: Path, folder: Path, positions: list[int]) -> int:
    """Flip a bit at each position; every flip must be seen or change nothing."""
    good = path.read_bytes()
    before = read_checkpoint(folder).tensors
    seen = 0
    for position in positions:
        data = bytearray(good)
        data[position] ^= 1 << (position % 8)
        path.write_bytes(data)
        try:
            verify_checkpoint(folder)
        except DataError as error:
            assert error.exit_code == 65
            assert str(path) in str(error.where) or "hash" in str(error.why)
            seen += 1
        else:
            assert equal(read_checkpoint(folder).tensors, before)
    path.write_bytes(good)
    verify_checkpoint(folder)
    return seen


def test_every_flipped_bit_of_the_payload_is_seen_and_named(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    path = folder / "rank-1.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    positions = list(range(header, path.stat().st_size))
    assert damaged_everywhere(path, folder, positions) == len(positions)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"tensor .*/") as caught:
        verify_checkpoint(folder)
    assert "checksum" in str(caught.value.why)


def test_a_flipped_bit_of_the_header_is_seen_or_harmless(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    path = folder / "rank-0.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    assert damaged_everywhere(path, folder, list(range(header))) > header // 2


@pytest.mark.parametrize("name", ["manifest.json", "COMMITTED"])
def test_every_flipped_bit_of_manifest_and_marker_is_seen(tmp_path: Path, name: str) -> None:
    folder = write_good(tmp_path, 1)
    path = folder / name
    good = path.read_bytes()
    for position in range(0, len(good.rstrip()), 3):
        data = bytearray(good)
        data[position] ^= 1 << (position % 7)
        path.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            read_checkpoint(folder)
    path.write_bytes(good)
    verify_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 7, 8, 60, -1])
def test_a_cut_file_is_seen(tmp_path: Path, kept: int) -> None:
    folder = write_good(tmp_path, 1)
    path = folder / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="damaged: tensor"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["rank-1.safetensors", "manifest.json", "COMMITTED"])
def test_a_missing_file_is_seen(tmp_path: Path, name: str) -> None:
    folder = write_good(tmp_path, 1)
    (folder / name).unlink()
    with pytest.raises(DataError) as caught:
        read_checkpoint(folder)
    assert name in str(caught.value.where)


def test_damage_elsewhere_does_not_stop_a_partial_read_but_stops_a_resume(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    (folder / "rank-1.safetensors").unlink()
    assert (
        read_checkpoint(folder, {"parameters/early": (0, 5)}).tensors["parameters/early"].numel()
        == 5
    )
    with pytest.raises(DataError):
        verify_checkpoint(folder)


def test_an_unknown_tensor_and_another_format_are_named(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    with pytest.raises(DataError, match="holds no tensor other"):
        read_checkpoint(folder, {"other": None})
    for change in ({"format": 99}, {"tensors": 3}, {"tensors": {"x": {}}}):
        manifest = {**json.loads((folder / "manifest.json").read_text()), **change}
        data = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(data)
        (folder / "COMMITTED").write_text(hashlib.sha256(data).hexdigest())
        with pytest.raises(DataError, match=r"format|manifest"):
            read_checkpoint(folder)


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
    with pytest.raises(DataError, match="all 3 checkpoints"):
        latest_good(tmp_path, said.append)
    assert latest_good(tmp_path / "elsewhere", said.append) is None


def test_keeps_the_last_few(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_good(tmp_path, step)
    assert [p.name for p in prune(tmp_path, 2)] == ["step-1", "step-2"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-3"]
    prune(tmp_path, 0)
    assert [p.name for p in committed(tmp_path)] == ["step-10"]


def test_one_failing_rank_fails_all_and_leaves_the_old_one(tmp_path: Path) -> None:
    write_good(tmp_path, 1)
    raised = write_all(checkpoint_folder(tmp_path, 2), model_tensors(), 3, break_rank=1)
    assert all(isinstance(error, WriteError) for error in raised)
    assert "No space left" in str(raised[1]) and "free some space" in str(raised[1])
    assert "rank 1" in str(raised[0])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, 1)


def test_the_same_step_again_replaces_it_whole(tmp_path: Path) -> None:
    write_good(tmp_path, 5, world=3)
    newer = {name: tensor + 1 for name, tensor in model_tensors().items()}
    folder = write_good(tmp_path, 5, newer, world=2)
    assert equal(read_checkpoint(folder).tensors, newer)
    assert sorted(p.name for p in folder.iterdir()) == [
        "COMMITTED",
        "manifest.json",
        "rank-0.safetensors",
        "rank-1.safetensors",
    ]


def test_sweep_removes_what_is_unfinished_and_restores_what_was_replaced(tmp_path: Path) -> None:
    good = write_good(tmp_path, 1)
    root = tmp_path / "checkpoints"
    write_good(tmp_path, 2).rename(root / "step-2.replaced")
    write_good(tmp_path, 3).rename(root / "step-1.replaced")
    (root / "step-4.partial").mkdir()
    (root / "step-5").mkdir()
    (root / "notes").mkdir()
    removed = {p.name for p in sweep(tmp_path)}
    assert removed == {"step-1.replaced", "step-4.partial", "step-5"}
    assert [p.name for p in committed(tmp_path)] == [good.name, "step-2"]
    assert (root / "notes").exists()
    assert sweep(tmp_path / "elsewhere") == []


KILLED = """
    import os, sys
    from pathlib import Path
    from holmes.runtime.checkpoint import write_checkpoint
    from tests.checkpoint.ranks import model_tensors, shards_of
    run, deadly = Path(sys.argv[1]), int(sys.argv[2])
    calls = 0
    def barrier():
        global calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), 9)
    shards = shards_of(model_tensors(), 0, 1)
    write_checkpoint(run / "checkpoints" / "step-2", 0, 1, shards, {}, barrier)
"""


def in_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.parametrize(("deadly", "survives"), [(1, 1), (2, 1), (3, 2)])
def test_killed_between_shards_and_commit(tmp_path: Path, deadly: int, survives: int) -> None:
    write_good(tmp_path, 1)
    assert in_child(KILLED, str(tmp_path), str(deadly)).returncode == -signal.SIGKILL
    assert latest_committed(tmp_path) == checkpoint_folder(tmp_path, survives)
    sweep(tmp_path)
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, survives)
    assert not list((tmp_path / "checkpoints").glob("*.partial"))
    write_good(tmp_path, 2)
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, 2)


LIMITED = """
    import sys, resource
    from pathlib import Path
    import torch
    from holmes.errors import WriteError
    from holmes.runtime.checkpoint import Shard, write_checkpoint
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    shard = {"x": Shard(torch.zeros(100_000), (100_000,), 0, 100_000)}
    try:
        folder = Path(sys.argv[1]) / "checkpoints" / "step-2"
        write_checkpoint(folder, 0, 1, shard, {}, lambda: None)
    except WriteError as error:
        print(error, error.exit_code)
"""


def test_a_write_the_system_refuses_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    write_good(tmp_path, 1)
    child = in_child(LIMITED, str(tmp_path))
    assert child.returncode == 0, child.stderr
    assert "cannot write the checkpoint" in child.stdout and child.stdout.strip().endswith("74")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-1"]


def test_too_little_space_is_known_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    raised = write_all(checkpoint_folder(tmp_path, 2), model_tensors(), 2)
    assert all(isinstance(error, WriteError) for error in raised)
    assert "not enough space" in str(raised[0])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-1"]


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file, not a folder")
    raised = write_all(checkpoint_folder(tmp_path, 1), model_tensors(), 2)
    assert all(isinstance(error, WriteError) for error in raised)


def test_random_state_goes_round(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    state = random_state()
    first = torch.rand(3)
    restore_random_state(json.loads(json.dumps(state)))
    assert torch.equal(torch.rand(3), first)
    for bad in ("", "!!", "AAAA"):
        with pytest.raises(DataError):
            restore_random_state(bad)
    torch.set_rng_state(before)

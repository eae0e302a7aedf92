"""What was written by some ranks is read by any others, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from holmes.errors import DataError
from holmes.runtime.checkpoint.folders import checkpoint_folder, committed
from holmes.runtime.checkpoint.manifest import Box
from holmes.runtime.checkpoint.read import read_checkpoint, verify_checkpoint
from holmes.runtime.checkpoint.shard import Shard
from holmes.runtime.checkpoint.write import Committed
from tests.checkpoint.ranks import (
    Tensors,
    equal,
    interval,
    model_tensors,
    write_good,
    write_shards,
)


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
    assert all(isinstance(one, Committed) for one in write_shards(folder, ranks))
    assert torch.equal(
        read_checkpoint(folder, {"x": (start, stop)}).tensors["x"], tensor[start:stop]
    )
    assert torch.equal(read_checkpoint(folder).tensors["x"], tensor.view(5, 7))


@pytest.mark.parametrize("dim", [0, 1])
def test_parts_of_a_tensor_axis_flattened_and_cut_again(tmp_path: Path, dim: int) -> None:
    """Two tensor ranks hold a half each, two data ranks share every half unevenly."""
    tensor = torch.arange(24.0).view(4, 6)
    ranks = []
    for half in tensor.chunk(2, dim):
        low = int(half.reshape(-1)[0]) // (6 if dim == 0 else 1)
        box: Box = ((low, low + 2), (0, 6)) if dim == 0 else ((0, 4), (low, low + 3))
        flat = half.reshape(-1)
        ranks += [{"x": Shard(flat[a:b], (4, 6), a, b, box)} for a, b in ((0, 5), (5, 12))]
    folder = checkpoint_folder(tmp_path, 1)
    assert all(isinstance(one, Committed) for one in write_shards(folder, ranks))
    assert torch.equal(read_checkpoint(folder).tensors["x"], tensor)
    assert torch.equal(
        read_checkpoint(folder, {"x": (5, 13)}).tensors["x"], tensor.reshape(-1)[5:13]
    )


def test_copies_on_several_ranks_may_overlap(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path, 1)
    tensor = torch.arange(6.0)
    ranks = [
        {"x": Shard(tensor, (2, 3), 0, 6)},
        {"x": Shard(tensor[2:5].clone(), (2, 3), 2, 5)},
        {},
    ]
    assert all(isinstance(one, Committed) for one in write_shards(folder, ranks))
    assert torch.equal(read_checkpoint(folder).tensors["x"], tensor.view(2, 3))
    (folder / "rank-1.safetensors").unlink()
    with pytest.raises(DataError, match="tensor x"):
        read_checkpoint(folder)


def test_shards_may_be_views_and_any_safetensors_reader_opens_the_files(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path, 1)
    flat = torch.arange(10.0)
    shards = {
        "a": Shard(flat[:4], (4,), 0, 4),
        "twin": Shard(flat[:4], (4,), 0, 4),
        "across": Shard(flat[2:6].double(), (4,), 0, 4),
        "transposed": Shard(flat[:6].view(2, 3).T, (3, 2), 0, 6),
        'odd "näme"': Shard(flat[:3].bool(), (3,), 0, 3),
    }
    assert isinstance(write_shards(folder, [shards])[0], Committed)
    read = read_checkpoint(folder).tensors
    library = load_file(folder / "rank-0.safetensors")
    for name, shard in shards.items():
        assert torch.equal(read[name].reshape(-1), shard.tensor.reshape(-1)), name
        assert torch.equal(library[name], shard.tensor.reshape(-1)), name


@pytest.mark.parametrize(
    "shards",
    [
        [{"x": Shard(torch.zeros(4), (6,), 0, 4)}],
        [{"x": Shard(torch.zeros(4), (4, 2), 0, 4, ((0, 4), (0, 1)))}],
        [
            {"x": Shard(torch.zeros(6), (4, 2), 0, 6, ((0, 3), (0, 2)))},
            {"x": Shard(torch.zeros(4), (4, 2), 0, 4, ((2, 4), (0, 2)))},
        ],
        [{"x": Shard(torch.zeros(2), (2,), 0, 2)}, {"x": Shard(torch.zeros(3), (3,), 0, 3)}],
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, shards: list[dict[str, Shard]]) -> None:
    folder = checkpoint_folder(tmp_path, 1)
    raised = write_shards(folder, shards)
    assert all(isinstance(error, Exception) for error in raised)
    assert "tensor x" in str(raised[0])
    assert list(folder.parent.iterdir()) == []


def test_an_interval_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        Shard(torch.zeros(4), (3,), 0, 4)
    with pytest.raises(ValueError, match="4 elements"):
        Shard(torch.zeros(4), (6,), 0, 3)
    with pytest.raises(ValueError, match="outside"):
        Shard(torch.zeros(4), (2, 2), 0, 4, ((0, 2), (1, 3)))


def test_a_partial_read_touches_only_its_own_files(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    (folder / "rank-1.safetensors").unlink()
    read = read_checkpoint(folder, {"parameters/early": (0, 5)})
    assert read.tensors["parameters/early"].numel() == 5
    with pytest.raises(DataError):
        verify_checkpoint(folder)


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    folder = write_good(tmp_path, 1)
    with pytest.raises(DataError, match="holds no tensor other"):
        read_checkpoint(folder, {"other": None})

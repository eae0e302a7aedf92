"""Saves in the background, what is kept, and what happens when a disk refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from holmes.errors import DataError, RankDiedError, WriteError
from holmes.runtime.checkpoint.agreement import Conversation, Members
from holmes.runtime.checkpoint.check import latest_good, pointer_damage
from holmes.runtime.checkpoint.folders import (
    Keep,
    checkpoint_folder,
    committed,
    latest_committed,
    leftovers,
    sweep,
)
from holmes.runtime.checkpoint.random_state import random_shard, restore_random, set_random
from holmes.runtime.checkpoint.read import Reader, read_checkpoint
from holmes.runtime.checkpoint.saver import Saver, SaverOptions
from holmes.runtime.checkpoint.shard import Shard, on_host
from holmes.runtime.checkpoint.write import Committed, Save, write_checkpoint
from tests.checkpoint.ranks import (
    equal,
    model_tensors,
    shards_of,
    write_alone,
    write_good,
    write_shards,
)

ROOT = Path(__file__).parents[2]


class Gate:
    """Holds a save at a phase until it is opened."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, phase: str) -> None:
        if phase == self._phase:
            self.reached.set()
            assert self.open.wait(20)


def alone(*values: float) -> tuple[float, ...]:
    """The maximum over one rank."""
    return values


def saver(run: Path, options: SaverOptions) -> Saver:
    return Saver(run, Members(), alone, options)


def test_training_may_change_tensors_while_they_are_saved(tmp_path: Path) -> None:
    tensors = model_tensors()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    gate, told = Gate("write"), []
    with saver(tmp_path, SaverOptions(on_phase=gate, on_commit=told.append)) as one:
        one.begin(1, shards_of(tensors, 0, 1), {})
        assert gate.reached.wait(20)
        for tensor in tensors.values():
            tensor.zero_()
        one.collect()
        assert told == [] and latest_committed(tmp_path) is None
        gate.open.set()
    assert [saved.folder for saved in told] == [checkpoint_folder(tmp_path, 1)]
    assert equal(read_checkpoint(checkpoint_folder(tmp_path, 1)).tensors, before)


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    gate = Gate("manifest")
    with saver(tmp_path, SaverOptions(on_phase=gate)) as one:
        one.begin(1, shards_of(model_tensors(), 0, 1), {})
        assert gate.reached.wait(20)
        threading.Timer(0.2, gate.open.set).start()
        one.begin(2, shards_of(model_tensors(), 0, 1), {})
        assert checkpoint_folder(tmp_path, 1) in committed(tmp_path)
    assert [p.name for p in committed(tmp_path)] == ["step-1", "step-2"]


def test_without_async_it_counts_when_begin_returns(tmp_path: Path) -> None:
    one = saver(tmp_path, SaverOptions(asynchronous=False))
    one.begin(1, shards_of(model_tensors(), 0, 1), {})
    assert one.last is not None and one.last.folder == latest_committed(tmp_path)


def test_a_failed_save_is_an_error_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    one = saver(tmp_path, SaverOptions())
    one.begin(2, shards_of(model_tensors(), 0, 1), {})
    with pytest.raises(WriteError, match="not enough space") as caught:
        for _ in range(200):
            one.collect()
            threading.Event().wait(0.01)
    assert caught.value.exit_code == 74
    assert [p.name for p in committed(tmp_path)] == ["step-1"]
    assert leftovers(tmp_path) == []
    monkeypatch.undo()
    with one:
        one.begin(2, shards_of(model_tensors(), 0, 1), {})
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, 2)


def test_all_ranks_learn_of_a_failure_at_the_same_step(tmp_path: Path) -> None:
    """Ranks as threads; a barrier stands for the collective between two steps."""
    world, store, raised = 3, HashStore(), {}
    agreed: dict[int, tuple[float, ...]] = {}
    meeting = threading.Barrier(world, timeout=20)

    def maximum(rank: int, *values: float) -> tuple[float, ...]:
        agreed[rank] = values
        meeting.wait()
        highest = tuple(map(max, *agreed.values()))
        meeting.wait()
        return highest

    def refuse(phase: str) -> None:
        if phase == "fsync":
            raise OSError(28, "No space left on device")

    def run(rank: int) -> None:
        options = SaverOptions(on_phase=refuse) if rank == 1 else SaverOptions()
        members = Members(rank, world, store, 10.0)
        one = Saver(tmp_path, members, lambda *values: maximum(rank, *values), options)
        one.begin(2, shards_of(model_tensors(), rank, world), {})
        for step in range(1000):
            try:
                one.collect()
            except WriteError as error:
                raised[rank] = (step, str(error))
                return
            threading.Event().wait(0.002 * rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({step for step, _ in raised.values()}) == 1 and len(raised) == world
    assert all("No space left" in text for _, text in raised.values())
    assert all("rank 1" in raised[rank][1] for rank in (0, 2))
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(("victim", "phase"), [(0, "write"), (0, "prepare"), (2, "write")])
def test_one_failing_rank_fails_all_and_leaves_the_old_one(
    tmp_path: Path, victim: int, phase: str
) -> None:
    write_good(tmp_path, 1)

    def refuse(rank: int, reached: str) -> None:
        if rank == victim and reached == phase:
            raise OSError(28, "No space left on device")

    folder = checkpoint_folder(tmp_path, 2)
    ranks = [shards_of(model_tensors(), rank, 3) for rank in range(3)]
    raised = write_shards(folder, ranks, on_phase=refuse)
    assert all(isinstance(error, WriteError) for error in raised)
    assert all("No space left" in str(error) for error in raised)
    assert "free some space" in str(raised[victim])
    assert sorted(p.name for p in folder.parent.iterdir()) == ["latest", "step-1"]
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, 1)


@pytest.mark.parametrize("silent", [0, 2])
def test_a_rank_that_is_not_heard_of_is_no_full_disk(tmp_path: Path, silent: int) -> None:
    """Also for the ranks that only hear of it from the first one."""
    write_good(tmp_path, 1)
    store, held = HashStore(), on_host(shards_of(model_tensors(), 0, 1))

    def run(rank: int) -> BaseException | None:
        patience = 0.3 if rank == 0 else 5.0 if silent else 0.3
        talk = Conversation(Members(rank, 3, store, patience), "test")
        try:
            write_checkpoint(Save(tmp_path, 2, held, {}, Keep(100)), talk)
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        raised = list(pool.map(run, {0, 1, 2} - {silent}))
    for error in raised:
        assert isinstance(error, RankDiedError) and error.exit_code == 75
        assert f"no word from rank {silent}" in str(error)
    assert [p.name for p in committed(tmp_path)] == ["step-1"]
    assert leftovers(tmp_path) == []


LIMITED = """
    import sys, resource
    from pathlib import Path
    import torch
    from holmes.errors import WriteError
    from holmes.runtime.checkpoint.agreement import Members
    from holmes.runtime.checkpoint.saver import Saver, SaverOptions
    from holmes.runtime.checkpoint.shard import Shard
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    shard = {"x": Shard(torch.zeros(100_000), (100_000,), 0, 100_000)}
    try:
        with Saver(Path(sys.argv[1]), Members(), lambda *v: v, SaverOptions()) as saver:
            saver.begin(2, shard, {})
    except WriteError as error:
        print(error, error.exit_code)
"""


def test_a_write_the_system_refuses_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    write_good(tmp_path, 1)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
    )
    assert child.returncode == 0, child.stderr
    assert "cannot write the checkpoint" in child.stdout and child.stdout.strip().endswith("74")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-1"]


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file, not a folder")
    ranks = [shards_of(model_tensors(), rank, 2) for rank in range(2)]
    raised = write_shards(checkpoint_folder(tmp_path, 1), ranks)
    assert all(isinstance(error, WriteError) for error in raised)


def test_keeps_the_last_few_and_every_nth(tmp_path: Path) -> None:
    shards = [shards_of(model_tensors(), 0, 1)]
    for step in (1, 4, 5, 8, 9, 10):
        write_shards(checkpoint_folder(tmp_path, step), shards, keep=Keep(2, 4))
    assert [p.name for p in committed(tmp_path)] == ["step-4", "step-8", "step-9", "step-10"]
    assert Keep(0, 0).doomed([1, 2, 3]) == [1, 2]
    assert Keep(1, 2).doomed([]) == []


def test_the_same_step_again_replaces_it_whole(tmp_path: Path) -> None:
    write_good(tmp_path, 5, world=3)
    newer = {name: tensor ^ True for name, tensor in model_tensors().items() if name == "mask"}
    folder = write_good(tmp_path, 5, newer, world=2)
    assert equal(read_checkpoint(folder).tensors, newer)
    assert len(list(folder.glob("rank-*"))) == 2
    assert leftovers(tmp_path) == []
    assert pointer_damage(tmp_path) is None


def test_sweep_removes_what_is_unfinished_and_restores_what_was_replaced(tmp_path: Path) -> None:
    write_good(tmp_path, 1)
    root = tmp_path / "checkpoints"
    write_good(tmp_path, 2).rename(root / "step-2.replaced")
    write_good(tmp_path, 3).rename(root / "step-1.replaced")
    (root / "step-4.partial").mkdir()
    (root / "latest.partial").write_text("step")
    (root / "notes").mkdir()
    removed = {p.name for p in sweep(tmp_path)}
    assert removed == {"step-1.replaced", "step-4.partial", "latest.partial"}
    assert [p.name for p in committed(tmp_path)] == ["step-1", "step-2"]
    assert (root / "notes").exists()
    assert sweep(tmp_path / "elsewhere") == []


def test_a_rank_that_writes_elsewhere_is_found_out(tmp_path: Path) -> None:
    """What a rank without the shared file system looks like to the first one."""

    def vanish(rank: int, phase: str) -> None:
        if rank == 0 and phase == "fsync":
            folder = checkpoint_folder(tmp_path, 1)
            folder.with_name("step-1.partial").joinpath("rank-0.safetensors").unlink()

    raised = write_shards(
        checkpoint_folder(tmp_path, 1), [shards_of(model_tensors(), 0, 1)], on_phase=vanish
    )
    assert "does not share this file system" in str(raised[0])


@contextmanager
def same_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def test_random_state_goes_round(tmp_path: Path) -> None:
    with same_generator():
        torch.manual_seed(7)
        folder = checkpoint_folder(tmp_path, 1)
        done = write_shards(folder, [random_shard(0), random_shard(1)])
        assert all(isinstance(one, Committed) for one in done)
        first = torch.rand(3)
        restore_random(Reader(folder), 1, 2)
        assert torch.equal(torch.rand(3), first)
        restore_random(Reader(folder), 0, 3)
        resharded = torch.rand(3)
        restore_random(Reader(folder), 1, 3)
        assert not torch.equal(torch.rand(3), resharded)
        with pytest.raises(DataError):
            set_random(torch.zeros(3, dtype=torch.uint8), "here")


def test_one_process_needs_no_store(tmp_path: Path) -> None:
    write_alone(tmp_path, 1)
    assert latest_good(tmp_path, print) == checkpoint_folder(tmp_path, 1)
    assert Shard(torch.zeros(1), (1,), 0, 1).box is None

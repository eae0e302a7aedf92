"""The NCCL path without a GPU: what would be asked of torch, recorded by a stand-in.

Each group's options, device binding and deadlines are checked for every rank of a plan
over two clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from holmes.errors import UnavailableError
from holmes.launch.variables import node_variables
from holmes.runtime import backends, collectives, groups
from holmes.runtime.communicator import Communicator
from holmes.runtime.groups import GroupOptions
from tests.launch.plans import plan_for, two_clusters

CUDA = torch.device("cuda", 0)
OPTIONS = GroupOptions("nccl", timeout_seconds=60.0, start_seconds=20.0, device=CUDA)


class FakeNccl:
    """Stands for ProcessGroupNCCL."""

    class Options:
        def __init__(self) -> None:
            self._timeout = timedelta(0)
            self.config = SimpleNamespace(net_name=None)


@dataclass
class Asked:
    """Everything that was asked of torch.distributed, in order."""

    world: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    exercised: list[tuple[str, timedelta]] = field(default_factory=list)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    seen = Asked()

    def new_group(ranks: list[int], **options: Any) -> object:
        seen.groups.append({"ranks": ranks, **options})
        return object()

    def init(backend: str, **options: Any) -> None:
        seen.world = {"backend": backend, **options}

    monkeypatch.setattr(dist, "ProcessGroupNCCL", FakeNccl, raising=False)
    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(
        groups, "exercise", lambda comm, _: seen.exercised.append((comm.name, comm.timeout))
    )
    yield seen


def open_on(plan: Any, rank: int) -> dict[str, Communicator]:
    return groups._Opener(plan, rank, OPTIONS).open(HashStore())


@pytest.mark.parametrize("rank", range(4))
def test_each_group_is_on_its_own_network(asked: Asked, rank: int) -> None:
    plan = plan_for()
    found = open_on(plan, rank)
    wanted = {"world": "Socket", "data.s0" if rank < 2 else "data.s1": "IB"}
    given = {"world": asked.world["pg_options"]}
    for group, ask in zip(plan.groups, asked.groups, strict=False):
        assert ask["ranks"] == list(group.ranks)
        assert ask["backend"] == "nccl"
        if rank in group.ranks:
            given[group.name] = ask["pg_options"]
        else:
            assert ask["pg_options"] is None
    assert {name: native.config.net_name for name, native in given.items()} == wanted
    assert set(found) == set(wanted)
    assert [name for name, _ in asked.exercised] == list(found)


def test_only_groups_of_their_own_are_bound_to_the_device(asked: Asked) -> None:
    """A bound world would be split into the others, instead of giving each its options."""
    open_on(plan_for(), 0)
    assert asked.world.get("device_id") is None
    assert all(ask["device_id"] == CUDA for ask in asked.groups)


def test_our_deadline_comes_before_the_watchdogs(asked: Asked) -> None:
    found = open_on(plan_for(), 0)
    for ask in (asked.world, *asked.groups):
        assert ask["timeout"] > timedelta(seconds=OPTIONS.timeout_seconds)
        if ask["pg_options"] is not None:
            assert ask["pg_options"]._timeout == ask["timeout"]
    assert all(comm.timeout == timedelta(seconds=60) for comm in found.values())
    assert {deadline for _, deadline in asked.exercised} == {timedelta(seconds=20)}


def test_a_group_is_carried_by_its_nodes_own_interface(asked: Asked) -> None:
    carried = {name: comm.network for name, comm in open_on(plan_for(), 2).items()}
    assert carried == {"world": "ethernet on eth0", "data.s1": "roce on roce0"}


def test_a_group_inside_a_node_leaves_the_network_to_nccl(asked: Asked) -> None:
    open_on(plan_for(two_clusters(devices=2), rank_map=(0, 1, 4, 5)), 0)
    assert asked.groups[0]["pg_options"].config.net_name is None
    assert asked.world["pg_options"].config.net_name == "Socket"


def test_the_node_leaves_errors_to_our_deadlines() -> None:
    assert node_variables(plan_for(), "ib-0")["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


def test_a_group_that_fails_is_named(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(ranks: list[int], **_: Any) -> object:
        raise RuntimeError("NCCL error: network IB not found")

    monkeypatch.setattr(dist, "new_group", refuse)
    with pytest.raises(UnavailableError) as caught:
        open_on(plan_for(), 0)
    for phrase in ("data.s0", "infiniband", "0 on ib-0, 1 on ib-1", "network IB not found"):
        assert phrase in str(caught.value)


def test_a_torch_that_cannot_choose_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(FakeNccl):
        class Options(FakeNccl.Options):
            def __init__(self) -> None:
                super().__init__()
                self.config = SimpleNamespace()

    monkeypatch.setattr(dist, "ProcessGroupNCCL", Old, raising=False)
    assert backends.nccl_options(None, timedelta(seconds=1))._timeout == timedelta(seconds=1)
    with pytest.raises(UnavailableError, match="network module IB"):
        backends.nccl_options("IB", timedelta(seconds=1))
    monkeypatch.delattr(dist, "ProcessGroupNCCL", raising=False)
    with pytest.raises(UnavailableError, match="no NCCL"):
        backends.nccl_options("IB", timedelta(seconds=1))


def test_after_a_failure_groups_are_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroyed"))
    monkeypatch.setattr(
        dist.distributed_c10d, "_abort_process_group", lambda: done.append("aborted")
    )
    backends.leave_groups(failed=True)
    backends.leave_groups(failed=False)
    assert done == ["aborted", "destroyed"]


class FakeGroup:
    """A process group of three members, of which this is the second; records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def _reduce_scatter_base(self, output: Any, given: Any, options: Any) -> FakeWork:
        assert options.reduceOp == dist.ReduceOp.SUM
        self.calls.append(("reduce_scatter", output.data_ptr() - given.data_ptr(), len(output)))
        return FakeWork(self.calls)

    def _allgather_base(self, output: Any, given: Any) -> FakeWork:
        self.calls.append(("all_gather", given.data_ptr() - output.data_ptr(), len(given)))
        return FakeWork(self.calls)


@dataclass
class FakeWork:
    calls: list[tuple[Any, ...]]

    def wait(self, timeout: timedelta) -> bool:
        self.calls.append(("waited", timeout))
        return True


def test_nccl_collectives_are_in_place_and_have_deadlines() -> None:
    """NCCL works in place when a member's chunk stands at its own place in the buffer."""
    fake, deadline = FakeGroup(), timedelta(seconds=7)
    comm = Communicator("data.s0", (0, 1, 2), 1, "ib", "nccl", deadline, fake)  # type: ignore[arg-type]
    flat = torch.zeros(12)
    own = collectives.reduce_scatter(comm, flat, flat.new_empty(0))
    collectives.all_gather(comm, flat)
    place = 4 * flat.element_size()
    waited = ("waited", deadline)
    assert own.data_ptr() == flat.data_ptr() + place
    assert fake.calls == [
        ("reduce_scatter", place, 4), waited, ("all_gather", place, 4), waited,
    ]  # fmt: skip

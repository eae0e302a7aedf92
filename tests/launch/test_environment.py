from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.launch.environment import (
    RankEnvironment,
    device_index,
    from_environ,
    launcher_of,
    logical_rank,
)
from tests.launch.plans import plan_for, two_clusters

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "n[01-02]",
    "SLURMD_NODENAME": "n02",
    "SLURM_JOB_ID": "12345",
}


def test_torchrun() -> None:
    found = from_environ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert (found.launch_rank, found.world_size, found.local_rank) == (5, 8, 1)
    assert (found.node_rank, found.node_name) == (2, None)
    assert (found.master_address, found.master_port) == ("10.0.0.1", 29500)
    assert (found.attempt, found.launcher) == (2, "torchrun")
    assert not found.hosts_store


def test_the_store_is_left_to_torchruns_agent_when_it_keeps_one() -> None:
    first = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}
    assert from_environ(first).hosts_store
    assert not from_environ({**first, "TORCHELASTIC_USE_AGENT_STORE": "True"}).hosts_store


def test_slurm() -> None:
    found = from_environ(SLURM)
    assert (found.launch_rank, found.world_size, found.node_rank) == (3, 4, 1)
    assert found.master_address == "n01"
    assert found.host_name == "n02"
    assert 20_000 <= found.master_port < 32_768
    assert found.master_port == from_environ({**SLURM, "SLURM_PROCID": "1"}).master_port
    assert found.master_port != from_environ({**SLURM, "SLURM_JOB_ID": "12346"}).master_port


def test_torchrun_inside_a_slurm_step_wins() -> None:
    assert launcher_of({**SLURM, **TORCHRUN}) == "torchrun"


def test_a_shell_in_an_allocation_is_no_rank() -> None:
    shell = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"}
    assert launcher_of(shell) is None
    with pytest.raises(ConfigError, match="not started as a rank"):
        from_environ(shell)


@pytest.mark.parametrize("name", sorted(TORCHRUN))
def test_each_missing_variable_is_named(name: str) -> None:
    partial = {key: value for key, value in TORCHRUN.items() if key != name}
    with pytest.raises(ConfigError, match=name):
        from_environ(partial)


@pytest.mark.parametrize(
    "change",
    [
        {"RANK": "8"},
        {"RANK": "minus one"},
        {"RANK": "-1"},
        {"RANK": "\u00b2"},
        {"LOCAL_RANK": "6"},
        {"MASTER_PORT": "0"},
        {"MASTER_PORT": "70000"},
        {"WORLD_SIZE": "0"},
    ],
)
def test_contradictions_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        from_environ(TORCHRUN | change)


def place(node_rank: int, local_rank: int = 0, **fields: object) -> RankEnvironment:
    base = RankEnvironment(3, 4, local_rank, None, node_rank, "h", 1)
    return replace(base, **fields)  # type: ignore[arg-type]


def test_device_by_name_then_host_then_order() -> None:
    topology = Topology(two_clusters(devices=2))
    assert device_index(topology, place(1, 1)) == 3
    assert device_index(topology, place(1, 1, host_name="roce-1.lan")) == 7
    assert device_index(topology, place(1, 0, host_name="roce-1", node_name="ib-0")) == 0


def test_unknown_node_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        device_index(Topology(two_clusters()), place(0, node_name="rocee-1"))
    assert "roce-1" in caught.value.text()


def test_a_process_without_a_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no device"):
        device_index(Topology(two_clusters()), place(0, 1))
    with pytest.raises(ConfigError, match="no counterpart"):
        device_index(Topology(two_clusters()), place(4))


def test_logical_rank_comes_from_the_plan_not_from_launch_order() -> None:
    plan = plan_for(rank_map=(0, 2, 3, 1))
    ranks = [logical_rank(plan, place(node, launch_rank=3 - node)) for node in range(4)]
    assert ranks == [0, 3, 1, 2]


def test_logical_rank_refuses_what_the_plan_does_not_use() -> None:
    plan = plan_for(two_clusters(devices=2), rank_map=(0, 2, 4, 6))
    with pytest.raises(ConfigError, match="idle"):
        logical_rank(plan, place(0, 1))
    with pytest.raises(ConfigError, match="3 processes were started for a plan of 4"):
        logical_rank(plan, place(0, world_size=3))

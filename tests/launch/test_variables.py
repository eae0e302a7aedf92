from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from holmes.errors import ConfigError
from holmes.hardware.site import Site
from holmes.launch.scripts import slurm_script, torchrun_command
from holmes.launch.variables import assumptions, node_variables
from tests.launch.plans import plan_for, renamed, two_clusters

COMMAND = ["holmes", "train", "my job.yaml", "--plan", "plan.json"]


def test_variables_of_an_infiniband_node() -> None:
    plan = plan_for(two_clusters(named=True))
    assert node_variables(plan, "ib-1") == {
        "HOLMES_NODE": "ib-1",
        "OMP_NUM_THREADS": "1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
        "NCCL_IB_HCA": "=ibp1s0,ibp2s0",
        "NCCL_SOCKET_IFNAME": "=eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
    }


def test_roce_gets_a_gid_and_says_that_it_is_assumed() -> None:
    plan = plan_for()
    assert node_variables(plan, "roce-0")["NCCL_IB_GID_INDEX"] == "3"
    assert "assumed" in assumptions(plan, "roce-0")[0]
    assert not any("GID" in text for text in assumptions(plan, "ib-0"))


def test_a_node_with_ethernet_alone_has_no_adapters() -> None:
    site = Site.model_validate(
        {
            "name": "one",
            "clusters": [
                {
                    "name": "e",
                    "nodes": 4,
                    "device": {"kind": "cpu-core"},
                    "nics": [{"kind": "ethernet", "gbit_s": 10}],
                }
            ],
        }
    )
    assert not any("IB" in name for name in node_variables(plan_for(site), "e-0"))


def test_unknown_node() -> None:
    with pytest.raises(ConfigError, match="ib-9"):
        node_variables(plan_for(), "ib-9")


def test_the_name_is_the_nodes() -> None:
    assert node_variables(plan_for(rank_map=(2, 3, 0, 1)), "roce-0")["HOLMES_NODE"] == "roce-0"


def run_script(text: str, folder: Path, **variables: str) -> list[str]:
    """Run a script with stand-ins for torchrun, srun and holmes that print what they get."""
    for name in ("torchrun", "holmes"):
        tool = folder / name
        tool.write_text(
            '#!/bin/bash\nprintf "%s\\n" "$@" "NODE=$HOLMES_NODE" "HCA=${NCCL_IB_HCA-}" '
            '"GID=${NCCL_IB_GID_INDEX-}"\n'
        )
        tool.chmod(0o755)
    srun = folder / "srun"
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", text],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_torchrun_script_starts_this_nodes_ranks(tmp_path: Path) -> None:
    plan = plan_for(two_clusters(devices=2), rank_map=(0, 1, 6, 7))
    printed = run_script(torchrun_command(plan, "roce-1", COMMAND), tmp_path, MASTER_ADDR="h")
    assert printed[:6] == [
        "--nnodes=2",
        "--node-rank=1",
        "--nproc-per-node=2",
        "--master-addr=h",
        "--master-port=29500",
        "--no-python",
    ]
    assert printed[6:11] == COMMAND
    assert printed[11:] == ["NODE=roce-1", "HCA==roce0", "GID=3"]


def test_torchrun_script_keeps_a_gid_that_is_set(tmp_path: Path) -> None:
    text = torchrun_command(plan_for(), "roce-0", COMMAND)
    printed = run_script(text, tmp_path, MASTER_ADDR="h", NCCL_IB_GID_INDEX="5")
    assert printed[-1] == "GID=5"


def test_torchrun_script_asks_for_the_master(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="MASTER_ADDR: the Ethernet address of ib-0"):
        run_script(torchrun_command(plan_for(), "ib-0", COMMAND), tmp_path)


@pytest.mark.parametrize(("host", "node"), [("0", "ib-0"), ("3", "roce-1")])
def test_slurm_script_gives_each_host_its_node(tmp_path: Path, host: str, node: str) -> None:
    text = slurm_script(renamed(plan_for(), "a; rm -rf $HOME"), COMMAND)
    assert "#SBATCH --ntasks-per-node=1" in text
    assert "--job-name='a; rm -rf $HOME'" in text
    printed = run_script(text, tmp_path, SLURM_NODEID=host, SLURM_JOB_NODELIST="n[1-4]")
    assert printed[:4] == COMMAND[1:]
    assert f"NODE={node}" in printed


def test_slurm_script_places_unequal_counts(tmp_path: Path) -> None:
    plan = plan_for(two_clusters(devices=2), rank_map=(0, 1, 2, 4))
    text = slurm_script(plan, COMMAND)
    assert "counts=(2 1 1)" in text and "--distribution=arbitrary" in text
    control = tmp_path / "scontrol"
    control.write_text("#!/bin/bash\nprintf 'n%s\\n' 1 2 3\n")
    control.chmod(0o755)
    hosts = text.replace("srun ", 'cat "$SLURM_HOSTFILE"; srun ', 1)
    printed = run_script(hosts, tmp_path, SLURM_NODEID="1", SLURM_JOB_NODELIST="n[1-3]")
    assert printed[:4] == ["n1", "n1", "n2", "n3"]


def test_a_plan_that_skips_a_device_cannot_be_launched() -> None:
    plan = plan_for(two_clusters(devices=2), rank_map=(1, 2, 4, 6))
    with pytest.raises(ConfigError, match="device 1 of node ib-0"):
        slurm_script(plan, COMMAND)


def test_a_node_without_ranks_has_no_command() -> None:
    plan = plan_for(two_clusters(devices=2), rank_map=(0, 1, 6, 7))
    with pytest.raises(ConfigError, match="runs no rank"):
        torchrun_command(plan, "ib-1", COMMAND)

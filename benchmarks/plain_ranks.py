"""Plain data parallelism, as anybody would write it: what the baselines of failures train.

    torchrun ... plain_ranks.py FOLDER         DistributedDataParallel over gloo
    python plain_ranks.py FOLDER --torchft     one replica under torchft's manager

Every rank notes when each of its steps ended, in ``FOLDER/steps-<rank>``. A rank that finds
``FOLDER/fault-<rank>`` (kind and step) does that to itself and leaves the time in ``struck``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

STEPS = 60
PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 10
"""Of the groups; the default of PyTorch is 30 minutes."""


def model() -> nn.Module:
    """Some hundred thousand parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))


def strike(folder: Path, rank: int, step: int) -> float:
    """Carry out this rank's fault if it is due; the factor its computation takes from now on."""
    path = folder / f"fault-{rank}"
    if not path.exists():
        return 1.0
    kind, when = path.read_text().split()
    if step < int(when):
        return 1.0
    if not (folder / "struck").exists():
        (folder / "struck").write_text(str(time.monotonic()))
        if kind in ("kill", "freeze"):
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    return 2.0 if kind == "slow" else 1.0


def train(folder: Path, rank: int, network: nn.Module, optimizer: Any) -> None:
    """The steps."""
    with (folder / f"steps-{rank}").open("a", buffering=1) as ends:
        for step in range(STEPS):
            factor = strike(folder, rank, step)
            time.sleep(PAUSE_SECONDS * factor)
            optimizer.zero_grad()
            network(torch.randn(8, 256)).square().mean().backward()
            optimizer.step()
            ends.write(f"{time.monotonic()}\n")


def plain(folder: Path) -> None:
    """Under torchrun."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_SECONDS))
    network = nn.parallel.DistributedDataParallel(model())
    train(folder, dist.get_rank(), network, torch.optim.SGD(network.parameters(), 0.01))
    dist.destroy_process_group()


def under_torchft(folder: Path) -> None:
    """One replica group of one rank; the lighthouse's address is in the environment."""
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

    rank, limit = int(os.environ["REPLICA_GROUP_ID"]), timedelta(seconds=TIMEOUT_SECONDS)
    network, state = model(), {"steps": 0}
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = ProcessGroupGloo(timeout=limit)
    manager = Manager(
        pg=group,
        min_replica_size=1,
        load_state_dict=state.update,
        state_dict=lambda: dict(state),
        timeout=limit,
        quorum_timeout=limit,
        connect_timeout=limit,
        replica_id=f"replica-{rank}",
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
    )
    wrapped = DistributedDataParallel(manager, network)
    train(folder, rank, wrapped, Optimizer(manager, torch.optim.SGD(network.parameters(), 0.01)))
    with suppress(RuntimeError):
        manager.shutdown(wait=False)


if __name__ == "__main__":
    (under_torchft if "--torchft" in sys.argv else plain)(Path(sys.argv[1]))

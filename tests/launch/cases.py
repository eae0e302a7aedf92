"""What the ranks of the pool tests do."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from holmes.errors import ConfigError
from holmes.launch.context import RankContext


def who(context: RankContext, word: str = "") -> dict[str, Any]:
    print(f"rank {context.rank} says {word}")
    return {
        "rank": context.rank,
        "world": context.world_size,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "port": context.master_port,
        "hosts_store": context.hosts_store,
        "word": word,
        "variable": os.environ.get("HOLMES_TEST_VARIABLE"),
    }


def torch_state(context: RankContext) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads(), "sum": float(torch.ones(3).sum())}


def meet(context: RankContext) -> dict[str, Any]:
    """A real gloo group over the store the context names; backward starts torch's threads."""
    import torch
    import torch.distributed as dist

    store = dist.TCPStore(
        context.master_address,
        context.master_port,
        context.world_size,
        context.hosts_store,
        timeout=timedelta(seconds=20),
    )
    dist.init_process_group(
        "gloo",
        store=store,
        rank=context.rank,
        world_size=context.world_size,
        timeout=timedelta(seconds=20),
    )
    try:
        x = torch.full((4,), float(context.rank + 1), requires_grad=True)
        (x * x).sum().backward()
        assert x.grad is not None
        total = x.grad.clone()
        dist.all_reduce(total)
        return {"total": total.tolist()}
    finally:
        dist.destroy_process_group()


def wait_for_peers(context: RankContext, killer: int, how: str) -> dict[str, Any]:
    """All wait in a barrier; one rank goes away first, in the way named."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{context.master_address}:{context.master_port}",
        rank=context.rank,
        world_size=context.world_size,
        timeout=timedelta(seconds=60),
    )
    dist.barrier()
    context.report({"step": 5})
    if context.rank == killer:
        leave(how)
    dist.barrier()
    return {}


def leave(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "exit":
        os._exit(3)
    else:
        raise ValueError("the third value is odd")


def raise_holmes(context: RankContext, rank: int) -> dict[str, Any]:
    if context.rank == rank:
        raise ConfigError("bad key", where="job.yaml:3", why="it is so", next_step="mend it")
    return {}


def lose_peer_then_fail(context: RankContext) -> dict[str, Any]:
    """Rank 0 complains of a lost peer at once, the guilty rank 1 speaks later."""
    if context.rank == 0:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")
    time.sleep(0.3)
    raise ValueError("the true cause")


def count(context: RankContext, reports: int) -> dict[str, Any]:
    for i in range(reports):
        context.report({"i": i})
    return {"reports": reports}


def report_then_hang(context: RankContext) -> dict[str, Any]:
    context.report({"step": context.rank})
    if context.rank == 1:
        time.sleep(600)
    return {}


def not_json(context: RankContext) -> dict[str, Any]:
    return {"value": object()}


def leave_python(context: RankContext) -> dict[str, Any]:
    sys.exit("done for today")


def large(context: RankContext, payload: str) -> dict[str, Any]:
    return {"payload": payload[::-1]}


def interfaces(context: RankContext) -> dict[str, Any]:
    """The interfaces this rank sees, from the kernel, and that it can use torch there."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    names = sorted(line.partition(":")[0].strip() for line in lines)
    return {"names": names, "node": context.node_name, **meet(context)}

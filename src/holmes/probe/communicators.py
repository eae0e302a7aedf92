"""Can one process hold a group on RDMA and one on sockets, whichever comes first?

The whole idea of a network per group rests on it. On two machines or more, one rank each
opens both groups, in one order and, in fresh processes (NCCL reads its variables once), in
the other; every group is checked, timed, and the bytes on each network card are counted.

    torchrun --nnodes=2 --nproc-per-node=1 ... --no-python holmes doctor --communicators
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Literal

from holmes.errors import UnavailableError
from holmes.probe.doctor.finding import Finding, fail, ok, warn

ELEMENTS = 4 << 20
"""Of four bytes each: large enough for a rate, and to stand out from other traffic."""
REPEATS = 5
START_SECONDS = 60.0
PROCESS_SECONDS = 240.0
XMIT_WORD_BYTES = 4
"""``port_xmit_data`` counts words of four bytes (InfiniBand specification, PortCounters)."""


@dataclass(frozen=True)
class Task:
    """What one process is told. ``networks`` holds (name, NCCL module, interface), in order."""

    rank: int
    size: int
    address: str
    port: int
    backend: Literal["gloo", "nccl"]
    networks: tuple[tuple[str, str, str], ...]
    elements: int = ELEMENTS


@dataclass(frozen=True)
class Carried:
    """One group as one rank saw it: whether the sum was right, Gbit/s, bytes sent by card."""

    network: str
    right: bool
    gbit_s: float
    sent: dict[str, int]


def orders(networks: Sequence[tuple[str, str, str]]) -> list[tuple[tuple[str, str, str], ...]]:
    """The order given, and the reverse."""
    return [tuple(networks), tuple(reversed(networks))]


def run_task(task: Task) -> list[Carried]:
    """Open both groups, exercise each while the other is open. Runs in its own process."""
    import torch
    from torch._C._distributed_c10d import TCPStore

    from holmes.runtime.backends import leave_groups
    from holmes.runtime.groups import GroupOptions, Network, open_networks

    device = torch.device("cuda", 0) if task.backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = TCPStore(
        task.address,
        task.port,
        is_master=task.rank == 0,
        wait_for_workers=False,
        timeout=timedelta(seconds=START_SECONDS),
    )
    options = GroupOptions(task.backend, start_seconds=START_SECONDS, device=device)
    networks = [Network(*each) for each in task.networks]
    opened = open_networks(store, task.rank, task.size, networks, options)
    found = [_exercise(comm, task, device) for comm in opened]
    again = [_exercise(comm, task, device) for comm in opened]  # now both have connected
    leave_groups(failed=False)
    return [
        Carried(b.network, a.right and b.right, b.gbit_s, b.sent)
        for a, b in zip(found, again, strict=True)
    ]


def _exercise(comm: Any, task: Task, device: Any) -> Carried:
    import torch

    from holmes.runtime import collectives

    value = torch.ones(task.elements, device=device)
    collectives.all_reduce(comm, value)
    right = bool((value == task.size).all())
    before = sent_bytes()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        collectives.all_reduce(comm, value)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    bits = 8 * value.nbytes * 2 * (task.size - 1) / task.size
    after = sent_bytes()
    moved = {name: after[name] - before.get(name, 0) for name in after}
    return Carried(comm.name, right, bits / median(seconds) / 1e9, moved)


def sent_bytes(root: Path = Path("/sys/class/infiniband")) -> dict[str, int]:
    """Bytes sent so far by every interface, and by every RDMA adapter under its verbs name."""
    from holmes.lab.counters import read_counters

    sent = {name: counters.tx_bytes for name, counters in read_counters().items()}
    for path in sorted(root.glob("*/ports/*/counters/port_xmit_data")):
        name = path.relative_to(root).parts[0]
        text = path.read_text().strip()
        sent[name] = sent.get(name, 0) + XMIT_WORD_BYTES * int(text or 0)
    return sent


def start(task: Task, environ: Mapping[str, str] = os.environ) -> list[Carried]:
    """Run a task in a fresh process of its own.

    Raises:
        UnavailableError: it failed or took too long; says its last line.
    """
    command = [sys.executable, "-m", "holmes.probe.communicators", json.dumps(asdict(task))]
    hidden = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in environ.items() if key not in hidden}
    kept = {key: value for key, value in kept.items() if not key.startswith("TORCHELASTIC")}
    names = " then ".join(each[0] for each in task.networks)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROCESS_SECONDS, env=kept, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{names}: no answer in {PROCESS_SECONDS:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(f"{names}: {last[:300]}")
    return [Carried(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def judge(
    task: Task, results: Sequence[Carried], cards: Mapping[str, Sequence[str]]
) -> list[Finding]:
    """What one order showed on one machine.

    Args:
        cards: by network, the interfaces and adapters that should have carried it.
    """
    order = " then ".join(each[0] for each in task.networks)
    least = task.elements * 4 * REPEATS // 2  # each rank sends at least what it holds, each time
    findings: list[Finding] = []
    for each in results:
        said = f"{order}: the {each.network} group ran at {each.gbit_s:.3g} Gbit/s"
        mine = sum(each.sent.get(card, 0) for card in cards[each.network])
        busiest = max(each.sent, key=lambda name: each.sent[name], default="none")
        counted = any(card in each.sent for card in cards[each.network])
        if not each.right:
            findings.append(fail("communicators", f"{said}, but its sum was wrong", "report it"))
        elif not counted:
            what = "no counters of its cards to check it by"
            findings.append(warn("communicators", f"{said}; {what}", "check with NCCL_DEBUG=INFO"))
        elif mine < least:
            findings.append(
                fail(
                    "communicators",
                    f"{said}, but its bytes went over {busiest}",
                    "NCCL did not keep to the group's network: see NCCL_DEBUG=INFO, and plan "
                    "with parallel.transport=common",
                )
            )
        else:
            findings.append(ok("communicators", f"{said} over {', '.join(cards[each.network])}"))
    return findings


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["networks"] = tuple(tuple(each) for each in given["networks"])
    print(json.dumps([asdict(each) for each in run_task(Task(**given))]))

"""The same faults under plain torchrun, and under torchft where it is installed.

torchrun: an agent on each of four shaped hosts, one rank of DistributedDataParallel over gloo
each. What counts as named is the rank whose failure the agents report as the earliest; the
class is right where the words of that report say it. torchft: four replicas on this machine
under one lighthouse; it goes on without the one that fails, and names nobody. It is no
dependency of this project: `--torchft FOLDER` is where it was installed
(`pip install --target FOLDER torchft-nightly`).

Runs in parts (`--only kill,cut`); the record keeps the others.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import plain_ranks
import record
import shares
from holmes.hardware.site import Fabric, Site
from holmes.lab.lab import Host, Lab
from holmes.lab.relay import Impairment

HOSTS = 4
SCRIPT = Path(__file__).with_name("plain_ranks.py")
RATE_GBIT_S = 0.4
SITE: dict[str, Any] = {
    "name": "flat",
    "clusters": [
        {
            "name": "a",
            "nodes": HOSTS,
            "device": {"kind": "cpu-core", "count": 1},
            "nics": [{"kind": "ethernet", "gbit_s": RATE_GBIT_S}],
        }
    ],
    "rehearsal": {"scale": 1},
}
STRIKE_STEP = 15
BY_RANK = ("kill", "freeze", "slow")
KINDS = (*BY_RANK, "cut", "rate", "loss")
UNDER_TORCHFT = ("kill", "freeze")
LIMIT_SECONDS = 150.0
SAYS = {"kill": re.compile(r"SIGKILL|Signal 9")}
"""What the words of a report must have for its class to be right; other faults have none:
all that is said of them is a timeout."""
EARLIEST = re.compile(
    r"Root Cause.*?time\s*:\s*(\S+).*?rank\s*:\s*(\d+).*?exitcode\s*:\s*([^\n]*)", re.DOTALL
)
ERROR = re.compile(r"Signal 9|Timed out|timed out|Connection (?:closed|reset)|Error: \[.*gloo")


def on_host(host: Host) -> list[str]:
    """The words that start a command on a host."""
    enter = ["nsenter"]
    enter += [f"--user={host.userns_path}", "--preserve-credentials"] if host.userns_path else []
    return [*enter, f"--net={host.netns_path}"]


def agents(lab: Lab, folder: Path) -> list[subprocess.Popen[bytes]]:
    """An agent on each host."""
    first = lab.hosts[0].addresses[Fabric.ETHERNET]
    started = []
    for number, host in enumerate(lab.hosts):
        command = [*on_host(host), sys.executable, "-m", "torch.distributed.run"]
        command += [f"--nnodes={HOSTS}", "--nproc-per-node=1", f"--node-rank={number}"]
        command += [f"--master-addr={first}", "--master-port=29511", str(SCRIPT), str(folder)]
        card = host.interfaces[Fabric.ETHERNET]
        more = {"GLOO_SOCKET_IFNAME": card, "OMP_NUM_THREADS": "1"}
        started.append(_started(command, folder / f"agent-{number}", more))
    return started


def _started(command: Sequence[str], log: Path, more: Mapping[str, str]) -> Any:
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **more})


@contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End them and what they started, frozen or not."""
    try:
        yield
    finally:
        for process in processes:
            for child in _children(process.pid):
                _kill(child)
            process.kill()
            process.wait()


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in path.read_text().split()] if path.exists() else []
    return [*found, *(below for child in found for below in _children(child))]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def steps(folder: Path, rank: int) -> list[float]:
    """When each step of a rank ended."""
    path = folder / f"steps-{rank}"
    return [float(word) for word in path.read_text().split()] if path.exists() else []


def said(folder: Path) -> str:
    return "\n".join((folder / f"agent-{i}").read_text(errors="replace") for i in range(HOSTS))


def torchrun(lab: Lab, kind: str, number: int) -> dict[str, Any]:
    """One fault: seconds until anything is said, who is named as the first to fail."""
    victim = (1 + number) % HOSTS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if kind in BY_RANK:
            (folder / f"fault-{victim}").write_text(f"{kind} {STRIKE_STEP}")
        processes = agents(lab, folder)
        try:
            with ended(processes):
                noticed = _watch(lab, folder, kind, victim, processes)
        finally:
            _mend(lab, kind, victim)
        return {"kind": kind, "victim": victim, "seconds": noticed, **_read(kind, victim, folder)}


def _watch(
    lab: Lab, folder: Path, kind: str, victim: int, processes: Sequence[subprocess.Popen[bytes]]
) -> float | None:
    """Seconds from the fault to the first error anywhere; waits for all agents to end."""
    limit, struck, noticed = time.monotonic() + LIMIT_SECONDS, None, None
    while time.monotonic() < limit and any(p.poll() is None for p in processes):
        if struck is None and kind not in BY_RANK and len(steps(folder, 0)) >= STRIKE_STEP:
            struck = time.monotonic()
            _break(lab, kind, victim)
        if struck is None and (folder / "struck").exists():
            struck = float((folder / "struck").read_text() or time.monotonic())
        if noticed is None and struck is not None and ERROR.search(said(folder)):
            noticed = time.monotonic() - struck
        if noticed is not None and kind == "freeze" and _only_frozen(processes, victim):
            break  # its agent waits for a process that never ends
        time.sleep(0.02)
    return noticed


def _only_frozen(processes: Sequence[subprocess.Popen[bytes]], victim: int) -> bool:
    return all(p.poll() is not None for i, p in enumerate(processes) if i != victim)


def _break(lab: Lab, kind: str, victim: int) -> None:
    if kind == "cut":
        lab.link_down(victim, Fabric.ETHERNET)
    elif kind == "rate":
        lab.set_rate(victim, Fabric.ETHERNET, RATE_GBIT_S / 2)
    else:
        lab.impair(victim, Fabric.ETHERNET, Impairment(loss=0.01))


def _mend(lab: Lab, kind: str, victim: int) -> None:
    if kind == "cut":
        lab.link_up(victim, Fabric.ETHERNET)
    elif kind == "rate":
        lab.set_rate(victim, Fabric.ETHERNET, RATE_GBIT_S)
    elif kind == "loss":
        lab.impair(victim, Fabric.ETHERNET, Impairment())


def _read(kind: str, victim: int, folder: Path) -> dict[str, Any]:
    """Who the reports of the agents name, and what they say."""
    text = said(folder)
    reports = sorted(EARLIEST.findall(text))
    named = int(reports[0][1]) if reports else None
    wanted = SAYS.get(kind)
    message = next((line.strip() for line in text.splitlines() if ERROR.search(line)), "")
    return {
        "named": named,
        "victim_right": named == victim,
        "class_right": wanted is not None and bool(reports and wanted.search(reports[0][2])),
        "blamed": [int(rank) for _, rank, _ in reports],
        "steps_complete": min(len(steps(folder, rank)) for rank in range(HOSTS) if rank != victim),
        "message": message[-300:],
    }


def torchft(installed: Path, kind: str, number: int) -> dict[str, Any]:
    """One fault: seconds until a survivor's next step."""
    victim = (1 + number) % HOSTS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / f"fault-{victim}").write_text(f"{kind} {STRIKE_STEP}")
        path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
        house = [sys.executable, "-c", LIGHTHOUSE, str(HOSTS - 1)]
        keeper = _started(house, folder / "lighthouse", {"PYTHONPATH": path})
        with ended([keeper]):
            where = _address(folder / "lighthouse")
            more = {"PYTHONPATH": path, "TORCHFT_LIGHTHOUSE": where, "OMP_NUM_THREADS": "1"}
            replicas = []
            for rank in range(HOSTS):
                one = {"REPLICA_GROUP_ID": str(rank)}
                command = [sys.executable, str(SCRIPT), str(folder), "--torchft"]
                replicas.append(_started(command, folder / f"agent-{rank}", {**more, **one}))
            with ended(replicas):
                return {"kind": kind, "victim": victim, **_next_step(folder, victim)}


LIGHTHOUSE = """
import sys, time
from torchft.coordination import LighthouseServer
house = LighthouseServer(bind="127.0.0.1:0", min_replicas=int(sys.argv[1]), join_timeout_ms=500)
print(house.address(), flush=True)
time.sleep(600)
"""


def _address(path: Path) -> str:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        found = re.search(r"http://\S+", path.read_text())
        if found:
            return found[0]
        time.sleep(0.05)
    raise SystemExit(f"the lighthouse did not start: {path.read_text()[-400:]}")


def _next_step(folder: Path, victim: int) -> dict[str, Any]:
    """Until every survivor made a step after the fault."""
    limit = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < limit:
        if (folder / "struck").exists() and (text := (folder / "struck").read_text()):
            after = [
                [end for end in steps(folder, rank) if end > float(text)]
                for rank in range(HOSTS)
                if rank != victim
            ]
            if all(len(found) > 2 for found in after):
                gaps = [found[0] - float(text) for found in after]
                gaps += [b - a for found in after for a, b in pairwise(found)]
                return {"seconds": max(gaps), "named": None}
        time.sleep(0.02)
    return {"seconds": None, "named": None, "message": said(folder)[-400:]}


def summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per kind of fault: who was right, after how long."""
    found = {}
    for kind in dict.fromkeys(t["kind"] for t in trials):
        mine = [t for t in trials if t["kind"] == kind]
        seconds = [t["seconds"] for t in mine if t["seconds"] is not None]
        found[kind] = {
            "right": shares.share(
                bool(t.get("class_right") and t.get("victim_right")) for t in mine
            ),
            "victim": shares.share(bool(t.get("victim_right")) for t in mine),
            "noticed": shares.share(t["seconds"] is not None for t in mine),
            "seconds": {**record.spread(seconds), "worst": max(seconds)} if seconds else None,
        }
    return found


def kept(before: Sequence[dict[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Trials of other kinds."""
    return [trial for trial in before if trial["kind"] not in kinds]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="of each kind")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--torchft", type=Path, help="where torchft was installed")
    parser.add_argument(
        "--no-torchrun", action="store_true", help="keep the trials that the record has of it"
    )
    given = parser.parse_args()
    kinds = given.only.split(",")
    before = record.read("baselines") or {}
    anew = [] if given.no_torchrun and "each" in before else kinds
    trials = kept(before.get("each", []), anew)
    with Lab.up(Site.model_validate(SITE)) as lab:
        for kind in anew:
            for number in range(given.trials):
                trials.append(torchrun(lab, kind, number))
                print(trials[-1], flush=True)
    others = before.get("each_torchft", [])
    if given.torchft is not None:
        chosen = [kind for kind in kinds if kind in UNDER_TORCHFT]
        others = kept(others, chosen)
        for kind in chosen:
            for number in range(given.trials):
                others.append(torchft(given.torchft, kind, number))
                print("torchft", others[-1], flush=True)
    right = [bool(t["class_right"] and t["victim_right"]) for t in trials]
    record.write(
        "baselines",
        {
            "headline": record.headline(
                "share of trials in which plain torchrun said the right class and victim",
                "holmes: the record reliability",
                {**record.spread([float(r) for r in right]), "pairs": len(right)},
            ),
            "sizes": f"a rank each on {HOSTS} hosts, {RATE_GBIT_S:g} Gbit/s; torchft on loopback",
            "timeout_seconds": plain_ranks.TIMEOUT_SECONDS,
            "torchrun": summary(trials),
            "torchft": summary(others),
            "each": trials,
            "each_torchft": others,
        },
    )


if __name__ == "__main__":
    main()

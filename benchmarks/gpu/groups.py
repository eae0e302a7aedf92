"""Groups and training on NCCL: the calls that only a GPU can check.

    python benchmarks/gpu/groups.py

One GPU suffices (a world of one rank); with two or more, two ranks are used. Every
group is opened by the runtime itself, with its network module as an option of the group,
and every collective is compared with its obvious result. Then the machine is probed into
a site file and the project trains 20 steps on it. Without CUDA it says so and ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import record

STEPS = 20
ELEMENTS = 1 << 20
DEADLINE_SECONDS = 600.0
WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in")


def main() -> None:
    """Run everything, write the record; or say why not."""
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        return
    import torch

    ranks = min(2, torch.cuda.device_count())
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(shown[:ranks])  # of what this starts
    with tempfile.TemporaryDirectory(prefix="holmes-gpu-") as folder:
        place = Path(folder)
        job = write_job(place, ranks)
        groups = check_groups(place, job, ranks)
        runs = {name: train(job, ranks, name, layout) for name, layout in layouts(ranks)}
    figures = {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "ranks": ranks,
        "groups": groups,
        "runs": runs,
    }
    record.write("gpu_groups", figures)


def missing() -> str:
    """Why this machine cannot run it; empty where it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device here"
    if not torch.distributed.is_nccl_available():
        return f"torch {torch.__version__} has no NCCL"
    return ""


def write_job(place: Path, ranks: int) -> Path:
    """Probe this machine into a site, and write a small job on text made here."""
    holmes("probe", "--quick", "--name", "gpu", "--output", str(place / "site.yaml"))
    text = place / "text"
    text.mkdir()
    for play in range(4):
        lines = [line(n, play) for n in range(900)]
        (text / f"{play}.txt").write_text("\n".join(lines))
    job = {
        "name": "gpu",
        "site": str(place / "site.yaml"),
        "model": {"preset": "gpt-5m", "sequence": 128, "vocabulary": 512, "tied": False},
        "data": {"source": str(text), "vocabulary": 512, "cache": str(place / "cache")},
        "batch": {"global": 16, "micro": 2},
        "train": {"steps": STEPS, "precision": "bf16"},
        "output": str(place / "runs"),
    }
    path = place / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def line(number: int, play: int) -> str:
    """A line of text that a model can learn."""
    return " ".join(WORDS[(number * 7 + place * play) % len(WORDS)] for place in range(9))


def layouts(ranks: int) -> list[tuple[str, str]]:
    """Names and layouts of the runs."""
    if ranks == 1:
        return [("single", "{pipeline: 1, data: 1}")]
    return [("pipeline", "{pipeline: 2, data: 1}"), ("data", "{pipeline: 1, data: 2}")]


def holmes(*words: str) -> str:
    """Run a command of the project; its standard output."""
    return run([sys.executable, "-m", "holmes", *words])


def torchrun(ranks: int, *words: str) -> str:
    """Run something as ``ranks`` processes of this machine; the standard output."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return run([*starter, f"--nproc-per-node={ranks}", *words])


def run(command: list[str]) -> str:
    """Run a command within the deadline; its errors go where ours go."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
        env=environment,
    )
    return done.stdout


def check_groups(place: Path, job: Path, ranks: int) -> dict[str, Any]:
    """Open groups on NCCL in ``ranks`` processes; what rank 0 found."""
    answer = place / "groups.json"
    torchrun(ranks, str(Path(__file__).resolve()), "--rank", str(job), str(answer))
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def train(job: Path, ranks: int, name: str, layout: str) -> dict[str, Any]:
    """Train through the project's own runtime on CUDA; the losses and times of the run."""
    words = [str(job), f"name={name}", f"parallel={layout}", "--json"]
    out = torchrun(ranks, "-m", "holmes", "train", *words)
    result = json.loads(out)
    first, last = result["loss"]["first"], result["loss"]["last"]
    assert last < first, f"the loss went from {first} to {last}"
    return {key: result[key] for key in ("steps", "step_seconds", "tokens_per_second", "loss")}


def rank_main(job: Path, answer: Path) -> None:
    """One rank: the groups of a plan, each exercised when it opens, then each collective."""
    import torch

    from holmes.launch.environment import from_environ
    from holmes.runtime.groups import GroupOptions, open_groups
    from holmes.runtime.rendezvous import Rendezvous

    here = from_environ(os.environ)
    device = torch.device("cuda", here.local_rank)
    torch.cuda.set_device(device)
    meeting = Rendezvous(here.master_address, here.master_port, here.hosts_store, here.attempt)
    options = GroupOptions(backend="nccl", device=device)
    plan = plan_with_groups(job, here.world_size)
    groups = open_groups(plan, here.launch_rank, meeting, options)
    found = {name: check_one(comm, device) for name, comm in groups.communicators.items()}
    modules = {group.name: group.transport.net_name for group in plan.groups}
    groups.barrier()
    groups.close()
    if here.launch_rank == 0:
        answer.write_text(json.dumps({"net_name": modules, "checks": found}))


def plan_with_groups(job: Path, ranks: int) -> Any:
    """The job's plan with one group on each network module that this machine has."""
    from holmes import api
    from holmes.hardware.site import Fabric
    from holmes.hardware.topology import Topology
    from holmes.job.resolve import resolve_job
    from holmes.plan.plan import Group, Transport

    everybody = tuple(range(ranks))
    wanted: list[tuple[str, Any, Fabric | None]] = [
        ("world", "world", None),
        ("data.socket", "data", Fabric.ETHERNET),
    ]
    if any(Path("/sys/class/infiniband").glob("*")):
        wanted.append(("data.verbs", "data", Fabric.INFINIBAND))
    if ranks > 1:
        wanted.append(("pipeline.0-1", "pipeline", None))
    plan = api.plan(resolve_job(job, [], {})).plan
    (node,) = Topology(plan.site).nodes
    names = {node.name: ("any",)}  # NCCL takes interfaces from the environment
    groups = tuple(
        Group(name, axis, everybody, Transport(fabric), names, 0) for name, axis, fabric in wanted
    )
    return replace(plan, groups=groups)


def check_one(comm: Any, device: Any) -> dict[str, Any]:
    """Compare the collectives of one communicator with their obvious results."""
    import torch

    from holmes.runtime import collectives

    n, mine = comm.size, comm.index + 1
    total = n * (n + 1) / 2
    flat = torch.full((ELEMENTS * n,), float(mine), device=device)
    worst = 0.0
    if comm.name.endswith((".down", ".up")):
        return {"exercised": True}
    summed = flat.clone()
    collectives.all_reduce(comm, summed)
    worst = max(worst, (summed - total).abs().max().item())
    own = collectives.reduce_scatter(comm, flat, flat.new_empty(0))
    worst = max(worst, (own - total).abs().max().item())
    collectives.all_gather(comm, flat)
    worst = max(worst, (flat - total).abs().max().item())
    assert worst == 0.0, f"{comm}: off by {worst}"
    return {"exercised": True, "worst_difference": worst, "bytes": flat.nbytes}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_main(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()

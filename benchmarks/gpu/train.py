"""One GPU: a Llama of about a billion parameters through the runtime, against a plain loop.

    python benchmarks/gpu/train.py

Both train the same blocks in bf16 under autocast with fp32 parameters and AdamW. The plain loop
is what one would write by hand: the blocks in a row, scaled-dot-product attention, fused AdamW,
gradients clipped, eagerly and with torch.compile. Arms alternate, each in a process of its own;
the figure is the paired ratio of median step times. Model FLOPs are counted by the workload and
set against the rate of the best matrix product that this GPU runs here. Without CUDA it says so
and ends.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
import groups as gpu

import record

MODEL = {
    "family": "llama",
    "layers": 16,
    "hidden": 2048,
    "heads": 32,
    "key_heads": 8,
    "ffn": 8192,
    "sequence": 2048,
    "vocabulary": 32000,
    "tied": False,
}
MICRO, MICROBATCHES = 4, 4
STEPS, WARM_UP, ROUNDS = 14, 4, 3
LIMIT = 1.03
"""The runtime may take this much longer than the plain loop."""
GEMM = 8192
LOOPS = ("eager", "compiled")


def main() -> None:
    """Run the arms in turn and write the record; or say why not."""
    reason = gpu.missing()
    if reason:
        print(f"skipped: {reason}")
        return
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in ("holmes", *LOOPS)}
    with tempfile.TemporaryDirectory(prefix="holmes-gpu-") as folder:
        job = write_job(Path(folder))
        for turn in range(ROUNDS):
            seconds["holmes"].append(through_runtime(job, f"holmes-{turn}"))
            for name in LOOPS:
                seconds[name].append(by_hand(job, name))
    flops = step_flops(job_model())
    peak = gemm_rate(GEMM, "cuda")
    ratios = {name: record.paired_ratio(seconds["holmes"], seconds[name]) for name in LOOPS}
    shares = {name: flops / median(taken) / peak for name, taken in seconds.items()}
    figures = {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "seconds": seconds,
        "over_plain": ratios,
        "flops_per_step": flops,
        "gemm_flops_per_second": peak,
        "model_flops_over_gemm": shares,
        "limit": LIMIT,
        "within_limit": ratios["eager"]["median"] <= LIMIT,
        "sizes": f"{MODEL}, {MICROBATCHES} micro-batches of {MICRO}",
    }
    record.write("gpu_train", figures)


def job_model() -> dict[str, Any]:
    """The model as the job has it."""
    return dict(MODEL)


def write_job(place: Path, model: dict[str, Any] | None = None) -> Path:
    """Probe this machine into a site, and write the job."""
    path = gpu.write_job(place, 1)
    job = json.loads(path.read_text())
    model = model or job_model()
    job["model"] = model
    job["data"]["vocabulary"] = min(512, model["vocabulary"])
    job["batch"] = {"global": MICRO * MICROBATCHES, "micro": MICRO}
    job["train"] = {"steps": STEPS, "precision": "bf16", "evaluate_batches": 0, "trace_steps": 0}
    job["parallel"] = {"pipeline": 1, "data": 1, "sharding": "none", "recompute": "none"}
    path.write_text(json.dumps(job))
    return path


def through_runtime(job: Path, name: str) -> float:
    """Median seconds of a step by `holmes train`, started as one rank."""
    out = gpu.torchrun(1, "-m", "holmes", "train", str(job), f"name={name}", "--json")
    found: float = json.loads(out)["step_seconds"]["median"]
    return found


def by_hand(job: Path, name: str) -> float:
    """Median seconds of a step of the plain loop, in a process of its own."""
    out = gpu.run([sys.executable, str(Path(__file__).resolve()), "--loop", str(job), name])
    return float(out.split()[-1])


def plain_loop(job: Path, *, compiled: bool, device: str, steps: int = STEPS) -> list[float]:
    """Seconds of each step of the loop that one writes by hand."""
    import torch

    from holmes.job.resolve import resolve_job
    from holmes.models.registry import describe, family_of, model_module

    resolved = resolve_job(job, [], {}).job
    family = family_of(resolved.model)
    module, config = model_module(family), describe(family).config_from(resolved.model)
    blocks = torch.nn.Sequential(*module.build_blocks(config, 0, config.blocks, device=device))
    forward: Any = torch.compile(blocks) if compiled else blocks
    optimizer = torch.optim.AdamW(blocks.parameters(), lr=1e-4, fused=device != "cpu")
    micro = resolved.batch.micro or 1
    shape = (micro, config.sequence)
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        for _ in range(resolved.batch.global_ // micro):
            tokens = torch.randint(config.vocabulary, shape, device=device)
            with torch.autocast(device, torch.bfloat16):
                loss = module.loss(forward(tokens), tokens)
            (loss / (resolved.batch.global_ // micro)).backward()
        torch.nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # the device is done, and a loss is known, as in a run
        taken.append(time.perf_counter() - start)
    return taken


def step_flops(model: dict[str, Any]) -> float:
    """Model FLOPs of a step: forward and backward, nothing recomputed."""
    from holmes.models.registry import describe, family_of

    module = describe(family_of(model))
    workload = module.workload(module.config_from(model), "mixed")
    one = sum(block.flops_forward + block.flops_backward for block in workload.blocks)
    return float(one * MICRO * MICROBATCHES)


def gemm_rate(size: int, device: str, repeats: int = 20) -> float:
    """FLOP/s of a square bf16 product."""
    import torch

    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    right = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    rates = []
    for _ in range(repeats):
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return median(rates)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        compiled = sys.argv[3] == "compiled"
        print(median(plain_loop(Path(sys.argv[2]), compiled=compiled, device="cuda")[WARM_UP:]))
    else:
        main()
